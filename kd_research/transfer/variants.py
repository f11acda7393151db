"""Made images scaled, shifted, turned and mirrored, as ZSKD's authors enlarge their transfer set.

Shapes: N images, V variants, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def _scaled(share: float) -> Tensor:
    return torch.diag(torch.tensor([share, share, 1.0]))


def _shifted(x: float, y: float) -> Tensor:
    """By shares of the sides."""
    return torch.tensor([[1.0, 0.0, 2 * x], [0.0, 1.0, 2 * y], [0.0, 0.0, 1.0]])


def _turned(degrees: float) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@cache
def kinds() -> Tensor:
    """(102, 2, 3): where each pixel of a variant comes from, as `affine_grid` has it.

    Three central cuts (0.9, 0.75, 0.6 of the sides), four shifts by a fifth, ten turns from -90 to
    90 degrees, three mirror images (also about the diagonal); each cut shifted, each shift turned,
    each cut turned (`model_training/data_augmentation.py` of github.com/vcl-iisc/ZSKD; its two
    kinds of noise are for CIFAR-10 alone).
    """
    cuts = [_scaled(share) for share in (0.9, 0.75, 0.6)]
    shifts = [_shifted(*by) for by in ((0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2))]
    turns = [_turned(degrees) for degrees in range(-90, 91, 20)]
    mirrors = [torch.diag(torch.tensor(signs)) for signs in ([-1.0, 1.0, 1.0], [1.0, -1.0, 1.0])]
    mirrors.append(torch.eye(3)[[1, 0, 2]])
    pairs = [cut @ shift for shift in shifts for cut in cuts]
    pairs += [shift @ turn for shift in shifts for turn in turns]
    pairs += [cut @ turn for cut in cuts for turn in turns]
    return torch.stack([*cuts, *shifts, *turns, *mirrors, *pairs])[:, :2]


def of_each(images: Tensor, number: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`number` different variants of each image, image by image, in parts of some 1,000.

    What comes from outside an image is 0, there 1. Sides count as 1: where they differ, a turn
    stretches as well.

    Args:
        images: (N, C, H, W), on the CPU.
        number: of each, at most as many as there are kinds.
        generator: draws which.
    """
    which = torch.rand(len(images), len(kinds()), generator=generator).topk(number).indices
    at_once = max(1, 1000 // number)
    for part, chosen in zip(*(torch.split(each, at_once) for each in (images, which)), strict=True):
        several = part.repeat_interleave(number, dim=0)
        grid = F.affine_grid(kinds()[chosen.flatten()], [*several.shape], align_corners=False)
        yield F.grid_sample(several, grid, align_corners=False)
