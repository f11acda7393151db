"""Wide residual networks (Zagoruyko, Komodakis 2016, arXiv:1605.07146), without dropout.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_research.models.layers import Conv, GlobalPool, check_width, image_channels, init_he


class PreActivationBlock(nn.Module):
    """Normalisation and ReLU before each of two 3x3 convolutions.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input.

    Args:
        in_channels: of the input.
        out_channels: of both convolutions.
        stride: of the first.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            Conv(in_channels, out_channels, 1, stride, bias=False)
            if stride != 1 or in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        active = self.relu1(self.norm1(x))
        out: Tensor = self.conv2(self.relu2(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-`depth`-`width`: three stages of (16, 32, 64) * `width` channels.

    `stages.i` gives the raw sums; `norm` and `relu` follow the last.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        depth: 6n + 4: 10, 16, 22, 28, 40.
        width: the widening factor, a whole number.

    Raises:
        ValueError: depth is not 6n + 4, or width is below 1.
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], depth: int, width: int):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            near = 6 * max(1, round((depth - 4) / 6)) + 4
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, ...), got {depth}; try {near}")
        blocks = (depth - 4) // 6
        width = check_width(width)
        self.stem = nn.Conv2d(image_channels(input_shape), 16, 3, padding=1, bias=False)
        stages, in_channels = [], 16
        for position in range(3):
            out_channels = 16 * width * 2**position
            stage = [PreActivationBlock(in_channels, out_channels, 1 if position == 0 else 2)]
            stage += [PreActivationBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
            in_channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.pool = GlobalPool()
        self.head = nn.Linear(in_channels, num_classes)
        init_he(self)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        x = self.relu(self.norm(self.stages(self.stem(x))))
        return self.head(self.pool(x))  # type: ignore[no-any-return]
