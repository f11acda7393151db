"""The MLP, the small convolutional nets and the soft tree."""

from __future__ import annotations

import pytest
import torch

from kd_research.models.cnn import CNN
from kd_research.models.lenet import LeNet
from kd_research.models.mlp import MLP
from kd_research.models.plain_cnn import PlainCNN
from kd_research.models.soft_tree import SoftTree


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


def test_the_soft_tree_of_frosst_2017() -> None:
    """Depth 8: 255 filters of 785 numbers, 256 leaves of 10."""
    net = SoftTree([1, 28, 28], 10)
    assert sum(p.numel() for p in net.parameters()) == 255 * 785 + 256 * 10
    assert net(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_a_soft_tree_predicts_by_the_likeliest_leaf_or_by_all_of_them() -> None:
    torch.manual_seed(0)
    net = SoftTree([3], 4, depth=2, inverse_temperature=0.5).double()
    inputs = torch.randn(20, 3, dtype=torch.float64)
    right = torch.sigmoid(0.5 * (inputs @ net.pool.filters.weight.T + net.pool.filters.bias))
    root, low, high = right.unbind(dim=1)
    ways = [(1 - root) * (1 - low), (1 - root) * low, root * (1 - high), root * high]
    paths = torch.stack(ways, dim=1)
    leaves = net.head.leaf_logits.softmax(dim=1)
    average = sum(way[:, None] * leaf for way, leaf in zip(ways, leaves, strict=True))
    torch.testing.assert_close(net.pool(inputs), paths)
    torch.testing.assert_close(net(inputs).exp(), average)  # the one that its gates learn by
    net(inputs)[:, 0].sum().backward()
    assert net.pool.filters.weight.grad.all()
    net.eval()
    torch.testing.assert_close(net(inputs).exp(), leaves[paths.argmax(dim=1)])
    net.head.prediction = "average"
    torch.testing.assert_close(net(inputs).exp(), average)


@pytest.mark.parametrize("prediction", ["leaf", "average"])
def test_a_soft_tree_far_from_its_decisions_is_finite(prediction: str) -> None:
    net = SoftTree([3], 4, depth=8, prediction=prediction)
    with torch.no_grad():
        net.head.leaf_logits.mul_(1e4)
    logits = net(1e6 * torch.randn(5, 3))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.eval()(1e6 * torch.randn(5, 3)).isfinite().all()


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
        (lambda: SoftTree([4], 3, depth=0), "depth from 1 to 16"),
        (lambda: SoftTree([4], 3, inverse_temperature=0), "inverse_temperature > 0"),
        (lambda: SoftTree([4], 3, prediction="best"), "leaf or average, got 'best'; try leaf"),
        (lambda: CNN([64], 3), "try model mlp"),
        (lambda: CNN([1, 8, 8], 3, depth=0), "depth >= 1"),
    ],
)
def test_wrong_sizes_are_told(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
