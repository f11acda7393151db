"""ShuffleNet v1 (Zhang et al. 2018, arXiv:1707.01083) and v2 (Ma et al. 2018, arXiv:1807.11164).

For small images, as the distillation benchmark (Tian, Krishnan, Isola 2020, arXiv:1910.10699) has
them: a 1x1 stem of stride 1 and no max-pooling.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.models.layers import GlobalPool, check_width, conv_norm, image_channels

_STEM = 24


class GroupedUnit(nn.Module):
    """Version 1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added or, at stride 2, joined.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: 1 or 2.
        groups: of the 1x1 convolutions; the first unit after the stem has 1 in its first.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int):
        super().__init__()
        own = out_channels - in_channels if stride == 2 else out_channels
        hidden = own // 4  # a quarter of what the unit itself makes, as the benchmark has it
        first_groups = 1 if in_channels == _STEM else groups
        self.first = conv_norm(in_channels, hidden, groups=first_groups).append(nn.ReLU())
        self.shuffle = nn.ChannelShuffle(first_groups)
        self.middle = conv_norm(hidden, hidden, 3, stride, groups=hidden).append(nn.ReLU())
        self.last = conv_norm(hidden, own, groups=groups)
        self.joins = stride == 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        out: Tensor = self.last(self.middle(self.shuffle(self.first(x))))
        if self.joins:
            return F.relu(torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1))
        return F.relu(out + x)


class ShuffleNetV1(nn.Module):
    """Three stages of (1, 2, 4) * `width` channels with grouped 1x1 convolutions.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        width: channels of the first stage; 240 at 3 groups in the paper.
        groups: of the 1x1 convolutions: 1, 2 or 3.

    Raises:
        ValueError: groups is none of these, or width is no multiple of 4 * groups above 24.
    """

    def __init__(
        self, num_classes: int, input_shape: Sequence[int], width: int = 240, groups: int = 3
    ):
        super().__init__()
        width = check_width(width)
        if groups not in (1, 2, 3) or width % (4 * groups) or width <= _STEM:
            raise ValueError(
                "groups must be 1, 2 or 3 and width a multiple of 4 * groups above "
                f"{_STEM}, got width={width}, groups={groups}; try width=240, groups=3"
            )
        self.stem = conv_norm(image_channels(input_shape), _STEM).append(nn.ReLU())
        stages, in_channels = [], _STEM
        for position, units in enumerate((4, 8, 4)):
            out_channels = width * 2**position
            stage = [GroupedUnit(in_channels, out_channels, 2, groups)]
            stage += [GroupedUnit(out_channels, out_channels, 1, groups) for _ in range(units - 1)]
            stages.append(nn.Sequential(*stage))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalPool()
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        return self.head(self.pool(self.stages(self.stem(x))))  # type: ignore[no-any-return]


def _branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """1x1, depthwise 3x3, 1x1."""
    return nn.Sequential(
        *conv_norm(in_channels, out_channels),
        nn.ReLU(),
        *conv_norm(out_channels, out_channels, 3, stride, groups=out_channels),
        *conv_norm(out_channels, out_channels),
        nn.ReLU(),
    )


class SplitUnit(nn.Module):
    """Version 2, stride 1: half the channels pass, half are transformed; then a shuffle."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, 1)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        kept, changed = x.chunk(2, dim=1)
        return self.shuffle(torch.cat([kept, self.branch(changed)], dim=1))  # type: ignore[no-any-return]


class DownUnit(nn.Module):
    """Version 2, stride 2: both halves are transformed."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(
            *conv_norm(in_channels, in_channels, 3, 2, groups=in_channels),
            *conv_norm(in_channels, half),
            nn.ReLU(),
        )
        self.right = _branch(in_channels, half, 2)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2)."""
        return self.shuffle(torch.cat([self.left(x), self.right(x)], dim=1))  # type: ignore[no-any-return]


class ShuffleNetV2(nn.Module):
    """Three stages of (1, 2, 4) * `width` channels and a 1x1 convolution to 1024.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        width: channels of the first stage, even; 116 is the paper's 1x.

    Raises:
        ValueError: width is odd or below 1.
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], width: int = 116):
        super().__init__()
        width = check_width(width)
        if width % 2:
            raise ValueError(f"width must be even, got {width}; try {width + 1}")
        self.stem = conv_norm(image_channels(input_shape), _STEM).append(nn.ReLU())
        stages: list[nn.Module] = []
        in_channels = _STEM
        for position, units in enumerate((4, 8, 4)):
            out_channels = width * 2**position
            stage: list[nn.Module] = [DownUnit(in_channels, out_channels)]
            stage += [SplitUnit(out_channels) for _ in range(units - 1)]
            stages.append(nn.Sequential(*stage))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.last = conv_norm(in_channels, 1024).append(nn.ReLU())
        self.pool = GlobalPool()
        self.head = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        return self.head(self.pool(self.last(self.stages(self.stem(x)))))  # type: ignore[no-any-return]
