"""MobileNet (Howard et al. 2017, arXiv:1704.04861, table 1), the small student of ImageNet tables.

Five stages by resolution, the last with 1024 channels at full width; on small images the first
convolution has stride 1.

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

_BLOCKS = (1, 2, 2, 6, 2)  # of each stage; every stage but the first begins with stride 2


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A depthwise 3x3 and a 1x1 convolution, each with its normalisation and ReLU."""
    depthwise = conv_norm(in_channels, in_channels, 3, stride, groups=in_channels)
    return nn.Sequential(
        depthwise.append(nn.ReLU()), conv_norm(in_channels, out_channels).append(nn.ReLU())
    )


class MobileNetV1(nn.Module):
    """A convolution and five stages of depthwise separable ones.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        width: channels of the first convolution; 32 in the paper, all stages scale with it.

    Raises:
        ValueError: width is below 1.
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], width: int = 32):
        super().__init__()
        width = check_width(width)
        stride = 2 if max(input_shape[1:]) >= 64 else 1
        self.stem = conv_norm(image_channels(input_shape), width, 3, stride).append(nn.ReLU())
        stages, in_channels = [], width
        for position, blocks in enumerate(_BLOCKS):
            stage = []
            for block in range(blocks):
                down = 2 if position > 0 and block == 0 else 1
                stage.append(_separable(in_channels, width * 2 ** (position + 1), down))
                in_channels = width * 2 ** (position + 1)
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalPool()
        self.head = nn.Linear(in_channels, num_classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        return self.head(self.pool(self.stages(self.stem(x))))  # type: ignore[no-any-return]
