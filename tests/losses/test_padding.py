"""Padding changes no loss on the features of text."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd_research.interfaces import Batch, Output
from kd_research.losses.contrast import Contrastive
from kd_research.losses.hints import Hint
from kd_research.losses.information import InformationTheoretic, SimpleRecipe
from kd_research.losses.relations import (
    CorrelationCongruence,
    ProbabilisticTransfer,
    Relational,
    SimilarityPreserving,
)
from kd_research.models.capture import Capture
from kd_research.models.text import TextTransformer

LAYERS: dict[str, Any] = {"student_layers": ["stages.-1"], "teacher_layers": ["stages.-1"]}
LOSSES = {
    "hint": lambda: Hint(**LAYERS),
    "rkd": lambda: Relational(**LAYERS, distance_weight=25.0, angle_weight=50.0),
    "pkt": lambda: ProbabilisticTransfer(**LAYERS),
    "sp": lambda: SimilarityPreserving(**LAYERS),
    "cc": lambda: CorrelationCongruence(**LAYERS),
    "itrd": lambda: InformationTheoretic(
        **LAYERS, correlation_weight=2.0, mutual_weight=1.0, power=1.5
    ),
    "srd": lambda: SimpleRecipe(**LAYERS, power=4.0, feature_weight=2.0, temperature=1.0),
    "crd": lambda: Contrastive(**LAYERS, num_negatives=4, temperature=0.07, momentum=0.5, width=8),
}


def batch_of(ids: torch.Tensor, lengths: torch.Tensor, columns: int) -> Batch:
    """The same sentences with so many columns of padding more, whose ids are not 0."""
    padded = torch.cat([ids, torch.full((len(ids), columns), 3)], dim=1)
    mask = (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).long()
    inputs = {"input_ids": padded, "attention_mask": mask}
    return Batch(inputs, torch.arange(len(ids)) % 2, torch.arange(len(ids)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_sentences_give_the_same_loss(name: str) -> None:
    torch.manual_seed(0)
    nets = [TextTransformer(2, 20, width, 1, heads=2).eval() for width in (8, 12)]
    student, teacher = (Capture(net, ["stages.-1"]) for net in nets)
    ids, lengths = torch.randint(1, 20, (8, 10)), torch.tensor([3, 10, 5, 7, 4, 9, 6, 8])
    loss = LOSSES[name]()
    found = []
    with torch.no_grad():
        for columns in (0, 20, 52):
            batch = batch_of(ids, lengths, columns)
            outputs: list[Output] = [net(batch.inputs) for net in (student, teacher)]
            if hasattr(loss, "build") and not found:
                loss.num_examples = len(ids)
                loss.build(*outputs)
            if not found:
                state = {key: value.clone() for key, value in loss.state_dict().items()}
            loss.load_state_dict(state)  # memories as they were
            torch.manual_seed(1)
            found.append(float(loss(*outputs, batch)))
    assert found[0] > 0
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
