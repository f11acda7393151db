"""What does not fit is told before training, with layers and shapes."""

import pytest
import torch
from hydra.errors import InstantiationException
from loss_cases import Net, make_batch, make_setting
from torch import nn

from kd_research.interfaces import Output
from kd_research.losses.attention import ChannelWise, FlowOfSolution
from kd_research.losses.hints import Hint
from kd_research.losses.information import SimpleRecipe
from kd_research.losses.overhaul import Overhaul
from kd_research.models.capture import Capture

ON_MAPS = [
    "at",
    "nst",
    "fsp",
    "cwd",
    "ickd",
    "vid",
    "mgd",
    "simkd",
    "ofd",
    "reviewkd",
    "kd_at",
    "cat_kd",
    "ft",
]


class Tokens(nn.Module):
    """(B, 1, 8, 8) -> logits, through 8 tokens of 16 numbers."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16))
        self.pool, self.head = nn.Identity(), nn.Linear(16, 5)

    def forward(self, inputs):
        return self.head(self.pool(self.stages(inputs[:, 0]).mean(dim=1)))


def outputs(student, teacher):
    return Output(torch.zeros(2, 5), {"a": student}), Output(torch.zeros(2, 5), {"a": teacher})


@pytest.mark.parametrize("name", ON_MAPS)
def test_maps_are_needed(name, monkeypatch):
    monkeypatch.setattr("loss_cases.Net", lambda width, classes: Tokens())
    overrides = []
    if name == "ofd":  # its default names the parts of a stage
        overrides = [f"loss.{who}_layers=[stages.0]" for who in ("student", "teacher")]
    with pytest.raises(ValueError, match=r"needs feature maps .*'stages\.\S+' gives \(6, 8, 16\)"):
        make_setting(name, overrides=tuple(overrides))


@pytest.mark.parametrize(
    "name", ["fitnet", "sp", "rkd", "pkt", "cc", "itrd", "srd", "srrl", "crd", "pad"]
)
def test_tokens_are_taken_where_the_method_can(name, monkeypatch):
    monkeypatch.setattr("loss_cases.Net", lambda width, classes: Tokens())
    setting = make_setting(name)
    total, _ = setting.value()
    assert total.isfinite()


@pytest.mark.parametrize("name", ["at", "nst", "cwd", "ickd"])
def test_maps_of_one_position_say_nothing(name):
    with pytest.raises(ValueError, match=r"has only 1 x 1: \(6, \d+, 1, 1\); try an earlier layer"):
        make_setting(
            name, overrides=("loss.student_layers=[pool.0]", "loss.teacher_layers=[pool.0]")
        )


def test_sizes_must_agree_where_positions_are_compared():
    loss = ChannelWise(["a"], ["a"], temperature=4.0)
    message = r"'a' is \(2, 3, 4, 4\) and the teacher's 'a' \(2, 3, 8, 8\)"
    with pytest.raises(ValueError, match=message):
        loss.build(*outputs(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8)))


def test_no_regressor_fits():
    with pytest.raises(ValueError, match=r"no regressor .*\(2, 3, 4, 4\) .*\(2, 3, 9, 9\)"):
        Hint(["a"], ["a"]).build(*outputs(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 9, 9)))


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 4), (4, 4)), ((8, 8), (4, 4)), ((4, 4), (8, 8)), ((9, 7), (5, 5))]
)
def test_regressors_meet_the_teachers_size(student, teacher):
    hint = Hint(["a"], ["a"])
    pair = outputs(torch.randn(2, 3, *student), torch.randn(2, 5, *teacher))
    hint.build(*pair)
    assert hint.regressors[0](pair[0].features["a"]).shape == (2, 5, *teacher)
    assert hint(*pair, make_batch(2, 5, 0)).isfinite()


def test_ofd_wants_what_is_before_the_relu():
    for layers, reason in (
        ("[stages.-1]", "no negative responses"),
        ("[stages.-1.conv]", "BatchN"),
    ):
        with pytest.raises(ValueError, match=reason):
            make_setting(
                "ofd", overrides=(f"loss.student_layers={layers}", f"loss.teacher_layers={layers}")
            )
    with pytest.raises(ValueError, match="needs feature maps"):
        Overhaul(["a"], ["a"]).build(*outputs(torch.zeros(2, 3), torch.zeros(2, 3)))


def test_ab_wants_what_is_before_the_relu():
    with pytest.raises(ValueError, match=r"'stages.-1' \(6, 12, 4, 4\) has no negative responses"):
        make_setting("ab", overrides=("loss.teacher_layers=[stages.0.norm,stages.-1]",))


def test_class_maps_need_linear_heads_that_take_the_maps():
    with pytest.raises(ValueError, match=r"loss.student_head=pool is a Sequential; give the path"):
        make_setting("cat_kd", overrides=("loss.student_head=pool",))
    early = ("loss.student_layers=[stages.0]", "loss.teacher_layers=[stages.0]")
    with pytest.raises(ValueError, match=r"head 'head' takes 8 features, but the map is \(6, 4,"):
        make_setting("cat_kd", overrides=early)


@pytest.mark.parametrize("powers", ["[1,1]", "0", "[1,2,-1]"])
def test_powers_are_one_or_one_for_each_head(powers):
    with pytest.raises(InstantiationException, match=r"loss.powers must be one number > 0, or 3"):
        make_setting("ofa", overrides=(f"loss.powers={powers}",))


def test_layers_must_pair_up():
    with pytest.raises(ValueError, match="must pair up"):
        Hint(["a"], [])
    with pytest.raises(ValueError, match="consecutive"):
        FlowOfSolution(["a"], ["a"])
    with pytest.raises(ValueError, match="at most 1 layer"):
        SimpleRecipe(["a", "b"], ["a", "b"], power=4, feature_weight=2, temperature=1)


def test_unknown_layers_and_heads_list_what_there_is():
    with pytest.raises(
        ValueError, match=r"no layer 'polo'; did you mean 'pool'\? there are: stages"
    ):
        make_setting("pkt", overrides=("loss.student_layers=[polo]",))
    for name, key in (("srrl", "teacher_head"), ("simkd", "student_pool")):
        with pytest.raises(ValueError, match=f"no layer 'fc' for loss.{key}; there are: stages"):
            make_setting(name, overrides=(f"loss.{key}=fc",))
    with pytest.raises(ValueError, match=r"head 'head' takes 12 features.*'stages\.0'.*\(6, 6\)"):
        make_setting("srrl", overrides=("loss.teacher_layers=[stages.0]",))


def test_capture_counts_from_the_end_and_refuses_what_is_no_tensor():
    net = Net(4, 5)
    inputs = torch.randn(2, 1, 8, 8)
    features = Capture(net, ["stages.-1", "stages.2", "stages.-1.norm"])(inputs).features
    assert torch.equal(features["stages.-1"], features["stages.2"])
    assert torch.equal(features["stages.-1"], features["stages.-1.norm"].relu())
    with pytest.raises(ValueError, match=r"no layer 'stages\.-4'"):
        Capture(net, ["stages.-4"])
    net.head = nn.LSTM(8, 5)
    with pytest.raises(ValueError, match="not a tensor"):
        Capture(nn.Sequential(nn.Identity(), Pair()), ["1"])(inputs)
    net.unused = nn.Identity()
    with pytest.raises(ValueError, match="does not call its layer 'unused'"):
        Capture(Unused(), ["unused"])(inputs)


class Pair(nn.Module):
    def forward(self, inputs):
        return {"logits": inputs}


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Identity()

    def forward(self, inputs):
        return inputs
