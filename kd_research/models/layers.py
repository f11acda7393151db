"""The few parts that the convolutional families share.

Every family names its parts alike, so that a loss finds them by path: `stem`, `stages.0` ... (the
activations that feature methods use), `pool` (B, width) and `head` (B, num_classes). ReLUs are
never in place: a captured activation stays what the layer gave.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class GlobalPool(nn.Module):
    """The mean over all positions: (B, C, H, W) -> (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C)."""
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class Conv(nn.Conv2d):
    """A convolution that takes every stride-th pixel itself where it has one tap and few channels.

    The same numbers as torch's, whose oneDNN writes past its buffer in the gradient of such weights
    in channels_last (below 16 channels with AVX-512; uxlfoundation/oneDNN#6035, open): the process
    crashes, or a gradient is wrong.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, ...)."""
        if self.kernel_size == (1, 1) and self.stride != (1, 1) and self.in_channels < 16:
            input = input[:, :, :: self.stride[0], :: self.stride[1]]
            return F.conv2d(input, self.weight, self.bias, groups=self.groups)
        return super().forward(input)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias, "same" padding, and its batch normalisation."""
    return nn.Sequential(
        Conv(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
    )


def init_he(model: nn.Module) -> None:
    """He et al. 2015 (arXiv:1502.01852, section 2.2), fan-out, for convolutions; biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def image_channels(input_shape: Sequence[int]) -> int:
    """The channels of an image of shape (C, H, W).

    Raises:
        ValueError: the shape is not that of an image.
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"input_shape must be (channels, height, width), got {tuple(input_shape)}; "
            "this model wants images, try student=mlp for vectors"
        )
    return int(input_shape[0])


def check_width(width: int) -> int:
    """The width itself.

    Raises:
        ValueError: it is not a whole number above 0.
    """
    if int(width) != width or width < 1:
        raise ValueError(f"width must be a whole number >= 1, got {width}")
    return int(width)
