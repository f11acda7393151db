"""A student that starts from its teacher: layers, channels, and what does not fit."""

import pytest
import torch
from tiny import Compose, plain

from kd_research.configuration.config import ConfigError, check
from kd_research.models.capture import Capture
from kd_research.models.gpt import GPT
from kd_research.models.text import TextTransformer
from kd_research.teacher.inheritance import inherit
from kd_research.trial.assembly import Parts

IDS = torch.randint(1, 20, (4, 10), generator=torch.Generator().manual_seed(0))
DECODER, ENCODER = {"input_ids": IDS}, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


def gpt(depth, width, heads=4):
    return GPT(20, 10, depth, width, heads, bias=True)


def bert(depth, width, heads=4):
    transformers = pytest.importorskip("transformers", reason="no extra transformers")
    return transformers.AutoModelForSequenceClassification.from_config(
        transformers.BertConfig(
            vocab_size=20,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
    )


def encoder(depth, width, heads=4):
    return TextTransformer(3, 20, width, depth, heads)


FAMILIES = {"gpt": (gpt, DECODER), "bert": (bert, ENCODER), "encoder": (encoder, ENCODER)}
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*nested tensor:UserWarning"
)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_are_the_teacher_and_some_are_it_without_the_others(family):
    torch.manual_seed(0)
    make, inputs = FAMILIES[family]
    teacher, same, half = make(4, 16).eval(), make(4, 16).eval(), make(2, 16).eval()
    inherit(same, teacher, inputs)
    with torch.no_grad():
        expected = Capture(teacher)(inputs).logits
        assert torch.equal(Capture(same)(inputs).logits, expected)
    inherit(half, teacher, inputs)
    spread = half.state_dict()
    inherit(half, teacher, inputs, layers=[0, 2])
    assert all(torch.equal(spread[name], value) for name, value in half.state_dict().items())
    place = {"gpt": "stages", "encoder": "stages", "bert": "bert.encoder.layer"}[family]
    theirs = dict(teacher.named_parameters())
    for name, value in half.named_parameters():
        assert torch.equal(value, theirs[name.replace(f"{place}.1.", f"{place}.2.")])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("heads", [4, 2])
def test_channels_that_do_nothing_are_left_out(family, heads):
    """Where half the teacher's channels are dead, the half as wide student is the teacher."""
    torch.manual_seed(0)
    make, inputs = FAMILIES[family]
    narrow, wide = make(2, 8, heads).eval(), make(2, 16, 4).eval()
    alive = torch.arange(16).view(4, 4)
    # Of four heads each has half its channels; of two, they are whole heads.
    inner = (alive[:, [0, 3]] if heads == 4 else alive[[1, 2]]).flatten()
    stream, neurons = torch.tensor([0, 2, 3, 5, 8, 9, 13, 15]), torch.arange(0, 64, 2)
    given = narrow.state_dict()
    for name, weight in wide.state_dict().items():
        weight.zero_()
        small = given[name]
        places = []
        for dimension, (size, whole) in enumerate(zip(small.shape, weight.shape, strict=True)):
            if size == whole:
                places.append(torch.arange(size))
            elif whole == 48:
                places.append(torch.cat([inner + 16 * part for part in range(3)]))
            elif whole == 64:
                places.append(neurons)
            elif (dimension == 0 and any(f".{x}." in name for x in ("query", "key", "value"))) or (
                dimension == 1
                and name.endswith(
                    ("attention.out.weight", "attention.output.dense.weight", "out_proj.weight")
                )
            ):
                places.append(inner)
            else:
                places.append(stream)
        weight[torch.meshgrid(*places, indexing="ij") if places else ()] = small
    student = make(2, 8, heads).eval()
    inherit(student, wide, inputs, width=8)
    # BERT's biases start at 0, so that a dead one is like any other.
    names = [name for name in given if family != "bert" or name.endswith("weight")]
    found = student.state_dict()
    wrong = [name for name in names if not torch.equal(found[name], given[name])]
    assert not wrong


def test_the_important_channels_stay():
    torch.manual_seed(0)
    teacher, student = gpt(2, 16).eval(), gpt(2, 8).eval()
    for name, parameter in teacher.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data[:] = torch.tensor([3.0, 0.1]).repeat(8)
    inherit(student, teacher, DECODER, layers=[1, 1])
    assert torch.equal(student.embedding.weight, teacher.embedding.weight[:, ::2])
    assert torch.equal(student.stages[0].norm1.weight, teacher.stages[1].norm1.weight[::2])
    assert student.head.weight is student.embedding.weight


def test_what_does_not_fit_is_told():
    teacher = gpt(4, 16)
    for layers, depth in (([0, 4], 2), ([0, 1, 2], 2)):
        with pytest.raises(ValueError, match=r"must name 2 layers, .* each from 0 to 3 .*depth="):
            inherit(gpt(depth, 16), teacher, DECODER, layers)
    with pytest.raises(ValueError, match=r"width=12, but the student is 8 wide; type student.mod"):
        inherit(gpt(4, 8), teacher, DECODER, width=12)
    with pytest.raises(ValueError, match="is no wider"):
        inherit(gpt(4, 32), teacher, DECODER)
    with pytest.raises(ValueError, match="head.weight.* and 20 in|embedding.weight has 30 entries"):
        inherit(gpt(2, 16), GPT(30, 10, 4, 16, 4, bias=True), DECODER)
    with pytest.raises(ValueError, match="no list of equal layers"):
        inherit(torch.nn.Linear(2, 2), teacher, DECODER)
    with pytest.raises(ValueError, match=r"has 1 heads of 8, the teacher 4 of 4: keep the number"):
        inherit(gpt(2, 8, heads=1), teacher, DECODER)


def test_a_run_starts_from_its_teacher(tiny: Compose) -> None:
    net = ("teacher=mlp", "teacher.model.width=8", "teacher.model.depth=2", "student.model.depth=2")
    parts = Parts(plain(tiny(*net, "student.from_teacher={layers: [0, 1]}")))
    taught = parts.teacher.module.state_dict()
    for name, value in parts.student.state_dict().items():
        assert torch.equal(value, taught[name])
    alone = tiny("loss=ce", "student.from_teacher={layers: [0]}")
    alone.teacher.model = None
    with pytest.raises(ConfigError, match="from_teacher: there is no teacher; type teacher=NAME"):
        Parts(plain(alone))
    both = tiny("student.from_teacher={depth: 2}", "student.checkpoint=/nowhere")
    with pytest.raises(ConfigError) as told:
        check(both)
    assert "student.checkpoint and student.from_teacher both say" in str(told.value)
    assert "student.from_teacher must be layers, width, or both, got {'depth': 2}" in str(
        told.value
    )
