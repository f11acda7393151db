"""The MLP and the small convolutional net."""

from __future__ import annotations

import pytest
import torch

from kd_research.models.cnn import CNN
from kd_research.models.lenet import LeNet
from kd_research.models.mlp import MLP
from kd_research.models.plain_cnn import PlainCNN


def test_the_nets_of_hinton_2015() -> None:
    teacher, student = (MLP([1, 28, 28], 10, width=width, depth=2) for width in (1200, 800))
    for net, width in ((teacher, 1200), (student, 800)):
        assert sum(p.numel() for p in net.parameters()) == (
            785 * width + (width + 1) * width + (width + 1) * 10
        )
        assert net(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize(("channels", "count"), [((6, 16), 61_706), ((3, 8), 35_820)])
def test_lenet_5_and_its_half(channels: tuple[int, int], count: int) -> None:
    net = LeNet([1, 28, 28], 10, channels)
    assert sum(p.numel() for p in net.parameters()) == count
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert LeNet([3, 32, 32], 10, channels, padding=0)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("channels", "hidden", "count"),
    [
        ([[16], [16]], [], 13_082),
        ([[16, 16], [32, 32]], [], 37_338),
        ([[32, 32], [64, 64], [128, 128], [256] * 4], [128], 2_487_850),
    ],
)
def test_the_plain_nets_of_takd(channels: list[list[int]], hidden: list[int], count: int) -> None:
    """By hand: 9 in out + out of a convolution, 2 out of its norm, in out + out of a linear map."""
    net = PlainCNN([3, 32, 32], 10, channels, hidden)
    assert sum(p.numel() for p in net.parameters()) == count
    assert net.training
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"stages needs images .* of \d+ pixels a side"):
        PlainCNN([3, 1, 1], 10, channels, hidden)


@pytest.mark.parametrize(
    ("init", "spread"), [("glorot", (2 / (400 + 300)) ** 0.5), ("gaussian", (2 / 400) ** 0.5)]
)
def test_the_stated_initialisation(init: str, spread: float) -> None:
    torch.manual_seed(0)
    net = MLP([400], 3, width=300, depth=1, init=init)
    first = net.layers[0].get_submodule("0")
    assert first.get_parameter("weight").std().item() == pytest.approx(spread, rel=0.02)
    assert not first.get_parameter("bias").any()
    bound = (6 / (400 + 300)) ** 0.5
    assert (first.get_parameter("weight").abs().max().item() <= bound) == (init == "glorot")


def test_depth_zero_is_a_linear_classifier() -> None:
    assert sum(p.numel() for p in MLP([1, 8, 8], 10, depth=0).parameters()) == 650


def test_max_norm_holds_after_every_step_and_only_shrinks() -> None:
    net = MLP([4], 3, width=5, depth=2, max_norm=0.5)
    small = net.layers[1].get_submodule("0").get_parameter("weight")
    with torch.no_grad():
        small.mul_(1e-3)
    before = small.clone()
    net.after_step()
    for layer in net.layers:
        weight = layer.get_submodule("0").get_parameter("weight")
        assert weight.norm(dim=1).max() <= 0.5 + 1e-6
    torch.testing.assert_close(small, before)


def test_dropout_is_off_in_eval() -> None:
    net = MLP([4], 3, width=50, dropout=0.5, input_dropout=0.2)
    inputs = torch.randn(8, 4)
    assert not torch.equal(net(inputs), net(inputs))
    net.eval()
    assert torch.equal(net(inputs), net(inputs))


@pytest.mark.parametrize("size", [4, 8, 28, 32])
@pytest.mark.parametrize(("width", "depth"), [(1, 1), (4, 3), (8, 6)])
def test_cnn_takes_any_size(size: int, width: int, depth: int) -> None:
    net = CNN([3, size, size], 7, width=width, depth=depth)
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP([4], 3, width=0), "width >= 1"),
        (lambda: MLP([4], 3, max_norm=-1), "max_norm must be > 0"),
        (lambda: MLP([4], 3, init="xavier"), "null, glorot or gaussian"),
        (lambda: LeNet([64], 3), "try model mlp"),
        (lambda: LeNet([1, 8, 8], 3), "leave nothing of an image of 8x8"),
        (lambda: CNN([64], 3), "try model mlp"),
        (lambda: CNN([1, 8, 8], 3, depth=0), "depth >= 1"),
    ],
)
def test_wrong_sizes_are_told(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
