"""Losses inside transformers: their definitions in loops, and what is padded counts nowhere."""

import math

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from loss_cases import compose_loss
from omegaconf import OmegaConf

from kd_research.interfaces import Batch, Output
from kd_research.losses.objective import Objective
from kd_research.losses.transformers import HiddenCosine, MiniLM, TinyBERT
from kd_research.models.capture import Capture
from kd_research.models.gpt import GPT

LAYERS = {
    "embeddings": "e",
    "hidden": "h{}",
    "query": "q{}",
    "key": "k{}",
    "value": "v{}",
}
LENGTHS, T, W, HEADS = (5, 3), 6, 8, 2


def features(seed: int, width: int = W) -> Output:
    generator = torch.Generator().manual_seed(seed)
    names = [name.format(0) for name in LAYERS.values()]
    values = {name: torch.randn(2, T, width, generator=generator).double() for name in names}
    return Output(torch.zeros(2, 3).double(), values)


def encoder_batch() -> Batch:
    mask = (torch.arange(T) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    return Batch(
        {"input_ids": mask, "attention_mask": mask}, torch.zeros(2).long(), torch.arange(2)
    )


def decoder_batch() -> Batch:
    """Row 0: documents of 2 and 4 tokens, the first label a prompt's; row 1: one, padded at 4."""
    positions = torch.tensor([[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    valid = torch.tensor([[0, 1, 1, 1, 0, 1], [1, 1, 1, 1, 0, 0]]).bool()
    inputs = {"input_ids": positions, "position_ids": positions}
    return Batch(inputs, torch.zeros(int(valid.sum())).long(), torch.arange(8), valid)


def pairs(batch: Batch) -> list[tuple[int, int, list[int]]]:
    """(row, position that looks, what it looks at), of all positions that count."""
    if batch.valid is None:
        return [
            (row, at, list(range(length)))
            for row, length in enumerate(LENGTHS)
            for at in range(length)
        ]
    positions = batch.inputs["position_ids"]
    return [
        (row, at, list(range(at - int(positions[row, at]), at + 1)))
        for row, at in batch.valid.nonzero().tolist()
    ]


def head(x: torch.Tensor, number: int) -> torch.Tensor:
    size = x.shape[-1] // HEADS
    return x[..., number * size : (number + 1) * size]


def made(loss, student, teacher):
    loss.build(student, teacher)
    return loss.double()


@pytest.mark.parametrize("batch", [encoder_batch(), decoder_batch()], ids=["encoder", "decoder"])
@pytest.mark.parametrize("width", [W, 4])
def test_minilm_is_its_definition(batch, width):
    student, teacher = features(0, width), features(1)
    loss = made(MiniLM(0, 0, LAYERS, HEADS), student, teacher)
    terms = []
    for row, at, seen in pairs(batch):
        for number in range(HEADS):
            for one, two in (("q0", "k0"), ("v0", "v0")):
                logs = []
                for output in (student, teacher):
                    first = head(output.features[one][row, at], number)
                    second = head(output.features[two][row, seen], number)
                    logs.append((second @ first / math.sqrt(len(first))).log_softmax(0))
                terms.append(2 * float((logs[1].exp() * (logs[1] - logs[0])).sum()))
    assert loss(student, teacher, batch).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    same = MiniLM(0, 0, LAYERS, HEADS)
    assert same(teacher, teacher, batch).abs() < 1e-12


@pytest.mark.parametrize("batch", [encoder_batch(), decoder_batch()], ids=["encoder", "decoder"])
@pytest.mark.parametrize("width", [W, 4])
def test_tinybert_is_its_definition(batch, width):
    student, teacher = features(0, width), features(1)
    loss = made(TinyBERT({0: 0}, LAYERS, HEADS), student, teacher)
    expected = 0.0
    rows = [(row, at) for row, at, _ in pairs(batch)]
    for name in ("e", "h0"):
        mapped = loss.regressor(student.features[name]).detach()
        squares = [
            float((mapped[place] - teacher.features[name][place]).square().mean()) for place in rows
        ]
        expected += sum(squares) / len(squares)
    squares = []
    for row, at, seen in pairs(batch):
        for number in range(HEADS):
            scores = [
                head(output.features["k0"][row, seen], number)
                @ head(output.features["q0"][row, at], number)
                / math.sqrt(output.features["q0"].shape[-1] / HEADS)
                for output in (student, teacher)
            ]
            squares += (scores[0] - scores[1]).square().tolist()
    expected += sum(squares) / len(squares)
    assert loss(student, teacher, batch).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("batch", [encoder_batch(), decoder_batch()], ids=["encoder", "decoder"])
def test_the_cosine_is_its_definition(batch):
    student, teacher = features(0), features(1)
    loss = made(HiddenCosine(0, 0, LAYERS), student, teacher)
    cosines = [
        float(
            F.cosine_similarity(student.features["h0"][row, at], teacher.features["h0"][row, at], 0)
        )
        for row, at, _ in pairs(batch)
    ]
    assert loss(student, teacher, batch).item() == pytest.approx(1 - sum(cosines) / len(cosines))
    assert loss(teacher, teacher, batch).abs() < 1e-9
    narrow = features(0, 4)
    mapped = made(HiddenCosine(0, 0, LAYERS), narrow, teacher)
    assert 0 < mapped(narrow, teacher, batch) < 2


LOSSES = {
    "cosine": lambda: HiddenCosine(0, 0, LAYERS),
    "tinybert": lambda: TinyBERT({0: 0}, LAYERS, HEADS),
    "minilm": lambda: MiniLM(0, 0, LAYERS, HEADS),
}


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_its_gradient_are_nothing(name):
    student, teacher, batch = features(0), features(1), encoder_batch()
    loss = made(LOSSES[name](), student, teacher)
    for value in student.features.values():
        value.requires_grad_()
    value = loss(student, teacher, batch)
    value.backward()
    garbage = [
        Output(
            output.logits,
            {
                key: torch.where(batch.inputs["attention_mask"].unsqueeze(2) == 1, x, 1e4 * (1 + x))
                for key, x in output.features.items()
            },
        )
        for output in (student, teacher)
    ]
    torch.testing.assert_close(loss(*garbage, batch), value, rtol=1e-9, atol=1e-9)
    for feature in student.features.values():
        if feature.grad is not None:
            assert feature.grad[1, :3].abs().sum() > 0
            assert feature.grad[1, 3:].abs().sum() == 0
            assert feature.grad.isfinite().all()
    teacher.features["h0"].requires_grad_()
    assert not any(x.grad is not None for x in teacher.features.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["distilbert", "tinybert", "minilm"])
@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_each_yaml_fits_encoders_and_decoders(name, kind):
    torch.manual_seed(0)
    if kind == "gpt":
        nets = [GPT(20, 12, depth, width, 2) for depth, width in ((2, 8), (3, 16))]
        inputs = {"input_ids": torch.randint(20, (3, 12))}
        labels = torch.randint(20, (3, 12)).index_fill_(1, torch.tensor([0, 11]), -100)
    else:
        transformers = pytest.importorskip("transformers", reason="no extra transformers")
        nets = [
            transformers.AutoModelForSequenceClassification.from_config(
                transformers.BertConfig(
                    vocab_size=20,
                    hidden_size=width,
                    num_hidden_layers=depth,
                    num_attention_heads=2,
                    intermediate_size=16,
                )
            )
            for depth, width in ((2, 8), (3, 16))
        ]
        mask = (torch.arange(12) < torch.tensor([12, 5, 9]).unsqueeze(1)).long()
        inputs = {"input_ids": torch.randint(1, 20, (3, 12)) * mask, "attention_mask": mask}
        labels = torch.tensor([0, 1, 1])
    config = compose_loss(name, f"layers@loss.layers={kind}")
    parts = {"terms": OmegaConf.to_container(config.terms), "ce_weight": config.ce_weight}
    objective = Objective(**instantiate(parts, _convert_="all"))
    student, teacher = (
        Capture(net.eval(), objective.layers(who))
        for net, who in zip(nets, ("student", "teacher"), strict=True)
    )
    objective.build(student(inputs), teacher(inputs))
    batch = Batch(inputs, labels, torch.arange(3))
    with torch.no_grad():
        taught = teacher(inputs)
    parameters = [*nets[0].parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    values = []
    for _ in range(30):
        total, found = objective(student(inputs), taught, batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert set(found) - {"ce"} == set(config.terms)
    assert values[-1] < 0.8 * values[0]


def test_what_does_not_fit_is_told():
    student, teacher = features(0), features(1)
    with pytest.raises(
        ValueError, match=r"loss.heads=3 does not divide the width 8 .*loss.heads=1"
    ):
        MiniLM(0, 0, LAYERS, 3).build(student, teacher)
    with pytest.raises(ValueError, match="layer_map is empty; try"):
        TinyBERT({}, LAYERS, 2)
    pooled = Output(student.logits, {name: x[:, 0] for name, x in student.features.items()})
    with pytest.raises(
        ValueError, match=r"needs layers that give \(examples, tokens, width\): 'e' gives"
    ):
        MiniLM(0, 0, LAYERS, 2).build(pooled, teacher)
    images = Batch(torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), torch.arange(2))
    with pytest.raises(
        ValueError, match="looks at tokens, and the data set has none; type dataset"
    ):
        made(HiddenCosine(0, 0, LAYERS), student, teacher)(student, teacher, images)
