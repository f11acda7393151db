"""What a net sees of an example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kd_research.models.mlp import MLP
from kd_research.models.view import View

IMAGES = torch.arange(2 * 3 * 8 * 6, dtype=torch.float32).view(2, 3, 8, 6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"channels": [2, 0]}, IMAGES[:, [2, 0]]),
        ({"channels": "1:3"}, IMAGES[:, 1:3]),
        ({"crop": [4, 2]}, IMAGES[:, :, 2:6, 2:4]),
        ({"size": [4, 3]}, IMAGES.view(2, 3, 4, 2, 3, 2).mean(dim=(3, 5))),
        ({"channels": [1], "crop": [8, 4], "size": [1, 1]}, IMAGES[:, 1:2, :, 1:5].mean((2, 3))),
        ({}, IMAGES),
    ],
)
def test_what_is_seen(settings: dict[str, Any], expected: Tensor) -> None:
    view = View(**settings)
    seen = view(IMAGES)
    assert [*seen.shape[1:]] == view.shape([3, 8, 6])
    torch.testing.assert_close(seen, expected.view_as(seen))


def test_a_larger_size_is_between_its_neighbours() -> None:
    ramp = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    seen = View(size=[2, 4])(ramp)
    torch.testing.assert_close(seen[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_columns_of_a_table() -> None:
    rows = torch.randn(4, 5)
    view = View(channels=[4, 1])
    assert view.shape([5]) == [2]
    assert torch.equal(view(rows), rows[:, [4, 1]])


def test_a_net_with_a_view_is_the_net_of_what_is_seen() -> None:
    torch.manual_seed(0)
    net = MLP([3, 4, 3], 5, width=6, depth=1)
    view = View(size=[4, 3])
    names = list(net.state_dict())
    expected = net(view(IMAGES))
    view.put_before(net)
    assert torch.equal(net(IMAGES), expected)
    assert list(net.state_dict()) == names


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"channels": []}, None, "view.channels must be numbers from 0"),
        ({"channels": "5:2"}, None, "or 'FIRST:END', got '5:2'"),
        ({"channels": [-1], "crop": [3], "size": 7}, None, "view.size must be"),
        ({"channels": [1, 3]}, [3, 8, 6], "has 3, but an example has the channels"),
        ({"channels": "0:4"}, [3, 8, 6], "0 to 2"),
        ({"crop": [9, 2]}, [3, 8, 6], "larger than the example"),
        ({"size": [2, 2]}, [5], "are of images"),
    ],
)
def test_views_that_cannot_be(
    settings: dict[str, Any], shape: list[int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        View(**settings).shape(shape or [3, 8, 6])
