"""Text classifiers: padding is invisible, and every family learns a rule on words."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from kd_research.models.capture import Capture
from kd_research.models.text import BagOfEmbeddings, BiLSTM, TextTransformer

FAMILIES = {
    "bag": partial(BagOfEmbeddings, width=16, depth=1),
    "bilstm": partial(BiLSTM, width=16, depth=2),
    "transformer": partial(TextTransformer, width=16, depth=2, heads=4),
}


def sentences(lengths=(5, 3, 8)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(family, training):
    torch.manual_seed(0)
    model = FAMILIES[family](num_classes=3, vocab_size=30).train(training)
    inputs = sentences()
    padded = {key: F.pad(value, (0, 4)) for key, value in inputs.items()}
    alone = {key: value[1:2, :3] for key, value in inputs.items()}
    logits = model(**inputs)
    assert logits.shape == (3, 3)
    torch.testing.assert_close(model(**padded), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(**alone), logits[1:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_learns_whether_a_word_is_there(family):
    torch.manual_seed(0)
    model = FAMILIES[family](num_classes=2, vocab_size=12)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 12, (256, 6), generator=generator)
    labels = (ids == 7).any(dim=1).long()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(model(**inputs), labels).backward()
        optimizer.step()
    assert (model.eval()(**inputs).argmax(1) == labels).float().mean() > 0.97


def test_layers_can_be_captured():
    model = FAMILIES["transformer"](num_classes=3, vocab_size=30).eval()
    output = Capture(model, ["stages.0", "stages.1"])(sentences())
    assert output.features["stages.1"].shape == (3, 8, 16)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"multiple of heads=4, got 18; try width=24"):
        TextTransformer(2, 30, width=18, depth=1)
