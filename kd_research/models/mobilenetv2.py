"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) as the distillation benchmark has it.

It differs from the paper's table 2: the stage of 24 channels keeps its resolution, the expansion
convolution is there at factor 1 too, activations are plain ReLUs. The first convolution has
stride 2, so a CIFAR image is 2x2 pixels at the end, as in the benchmark.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_research.models.layers import (
    GlobalPool,
    check_width,
    conv_norm,
    image_channels,
    init_he,
)

_FULL_WIDTH = 32  # channels of the first convolution at width multiplier 1
_STAGES = (  # expansion, channels at full width, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and linear 1x1 convolutions, with a shortcut where it fits."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_channels * expansion
        self.conv = nn.Sequential(
            *conv_norm(in_channels, hidden),
            nn.ReLU(),
            *conv_norm(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU(),
            *conv_norm(hidden, out_channels),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.has_shortcut else out


class MobileNetV2(nn.Module):
    """Seven stages of inverted residuals and a 1x1 convolution to 1280 channels.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        width: channels of the first convolution, of the paper's 32: 16 is the benchmark's half
            width; all stages scale with it.

    Raises:
        ValueError: width is below 2.
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], width: int = 16):
        super().__init__()
        width = check_width(width)
        if width < 2:
            raise ValueError(f"width must be >= 2 for a channel to be left, got {width}")
        scale = width / _FULL_WIDTH
        self.stem = conv_norm(image_channels(input_shape), width, 3, 2).append(nn.ReLU())
        stages, in_channels = [], width
        for expansion, full_channels, blocks, stride in _STAGES:
            out_channels = int(full_channels * scale)
            stage = [InvertedResidual(in_channels, out_channels, stride, expansion)]
            stage += [
                InvertedResidual(out_channels, out_channels, 1, expansion)
                for _ in range(blocks - 1)
            ]
            stages.append(nn.Sequential(*stage))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)
        last = int(1280 * max(1.0, scale))
        self.last = conv_norm(in_channels, last).append(nn.ReLU())
        self.pool = GlobalPool()
        self.head = nn.Linear(last, num_classes)
        init_he(self)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        return self.head(self.pool(self.last(self.stages(self.stem(x)))))  # type: ignore[no-any-return]
