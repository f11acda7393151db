"""Residual networks for CIFAR (He et al. 2016, arXiv:1512.03385, section 4.2).

Parameter counts are those of the distillation benchmark (Tian, Krishnan, Isola 2020,
arXiv:1910.10699), whose nets have a 1x1 convolution in the shortcuts that change shape. He's, and
with them the most used public weights, pad with zeros: `shortcut="pad"`, option A of section 4.2.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.models.layers import (
    GlobalPool,
    check_width,
    conv_norm,
    image_channels,
    init_he,
)

# What public code calls the layers of these nets: akamaster's, RepDistiller's, torchvision's.
PUBLIC_NAMES = (
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    *((rf"^layer{stage + 1}\.", f"stages.{stage}.blocks.") for stage in range(4)),
    (r"(blocks\.\d+\.conv\d)\.weight", r"\1.0.weight"),
    (r"(blocks\.\d+)\.bn(\d)\.", r"\1.conv\2.1."),
    (r"(blocks\.\d+)\.downsample\.", r"\1.shortcut."),
    (r"^(linear|fc)\.", "head."),
)


class Padded(nn.Module):
    """A shortcut without weights: every stride-th pixel, and channels of zeros on both sides.

    He et al. 2016 (arXiv:1512.03385, section 3.3), option A.

    Args:
        in_channels: of the input.
        width: of the output, which has as many more channels on one side as on the other.
        stride: of the pixels.
    """

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.stride, self.before = stride, (width - in_channels) // 2
        self.after = width - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H / stride, W / stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels: of the input.
        width: of both convolutions and of the output.
        stride: of the first convolution.
        activate: whether the sum goes through a ReLU; the last block of a stage leaves that to
            the stage, so that the pre-activation has a path of its own.
        pad: whether a shortcut that changes the shape is `Padded`, not a convolution.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, activate: bool, pad: bool = False
    ):
        super().__init__()
        self.conv1 = conv_norm(in_channels, width, 3, stride)
        self.relu1 = nn.ReLU()
        self.conv2 = conv_norm(width, width, 3)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != width:
            make = Padded if pad else partial(conv_norm, kernel=1)
            self.shortcut = make(in_channels, width, stride=stride)
        self.relu = nn.ReLU() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, width, H / stride, W / stride)."""
        out: Tensor = self.conv2(self.relu1(self.conv1(x)))
        return self.relu(out + self.shortcut(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the output is 4 times as wide.

    Args:
        in_channels: of the input.
        width: of the 3x3 convolution.
        stride: of the 3x3 convolution.
        activate: as in `BasicBlock`.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, activate: bool):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = conv_norm(in_channels, width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv_norm(width, width, 3, stride)
        self.relu2 = nn.ReLU()
        self.conv3 = conv_norm(width, out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = (
            conv_norm(in_channels, out_channels, 1, stride) if changes else nn.Identity()
        )
        self.relu = nn.ReLU() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        out: Tensor = self.conv3(self.relu2(self.conv2(self.relu1(self.conv1(x)))))
        return self.relu(out + self.shortcut(x))  # type: ignore[no-any-return]


def _stage(
    block: Callable[..., BasicBlock | Bottleneck],
    in_channels: int,
    width: int,
    depth: int,
    stride: int,
    expansion: int = 1,
) -> nn.Sequential:
    """`depth` blocks (their output: the pre-activation, path `.blocks`), then the ReLU."""
    blocks: list[nn.Module] = []
    for position in range(depth):
        blocks.append(
            block(in_channels, width, stride if position == 0 else 1, activate=position < depth - 1)
        )
        in_channels = width * expansion
    return nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks), relu=nn.ReLU()))


class ResNet(nn.Module):
    """The CIFAR ResNet: three stages of widths (1, 2, 4) * `width`, two convolutions a block.

    resnet8x4 and resnet32x4 of the benchmark are width 64 with a stem of 32.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110.
        width: channels of the first stage.
        stem_width: channels of the first convolution; None is `width`.
        shortcut: "conv", a 1x1 convolution where the shape changes, or "pad", zeros.

    Raises:
        ValueError: depth is not 6n + 2, width is below 1, or an unknown shortcut.
    """

    public_names = PUBLIC_NAMES

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        depth: int,
        width: int = 16,
        stem_width: int | None = None,
        shortcut: str = "conv",
    ):
        super().__init__()
        if shortcut not in ("conv", "pad"):
            raise ValueError(f"shortcut must be conv or pad, got {shortcut!r}; try conv")
        if depth < 8 or (depth - 2) % 6:
            near = 6 * max(1, round((depth - 2) / 6)) + 2
            raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ...), got {depth}; try {near}")
        blocks = (depth - 2) // 6
        width = check_width(width)
        stem_width = check_width(width if stem_width is None else stem_width)
        block = partial(BasicBlock, pad=shortcut == "pad")
        self.stem = conv_norm(image_channels(input_shape), stem_width, 3).append(nn.ReLU())
        self.stages = nn.Sequential(
            _stage(block, stem_width, width, blocks, 1),
            _stage(block, width, 2 * width, blocks, 2),
            _stage(block, 2 * width, 4 * width, blocks, 2),
        )
        self.pool = GlobalPool()
        self.head = nn.Linear(4 * width, num_classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        return self.head(self.pool(self.stages(self.stem(x))))  # type: ignore[no-any-return]


_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ImageNetResNet(nn.Module):
    """The four-stage ResNet (He et al. 2016, table 1), with a stem for small or for large images.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        depth: 18, 34, 50, 101 or 152.
        width: channels of the first stage.
        small_images: a 3x3 stem of stride 1, as the distillation benchmark has it on CIFAR;
            otherwise the paper's 7x7 of stride 2 with max-pooling.

    Raises:
        ValueError: an unknown depth, or width below 1.
    """

    public_names = PUBLIC_NAMES

    def __init__(
        self,
        num_classes: int,
        input_shape: Sequence[int],
        depth: int,
        width: int = 64,
        small_images: bool = True,
    ):
        super().__init__()
        if depth not in _DEPTHS:
            raise ValueError(f"depth must be one of {sorted(_DEPTHS)}, got {depth}")
        block, depths = _DEPTHS[depth]
        width = check_width(width)
        channels = image_channels(input_shape)
        if small_images:
            self.stem = conv_norm(channels, width, 3).append(nn.ReLU())
        else:
            self.stem = conv_norm(channels, width, 7, 2).append(nn.ReLU())
            self.stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        stages, in_channels = [], width
        for position, blocks in enumerate(depths):
            stage_width = width * 2**position
            stages.append(
                _stage(
                    block,
                    in_channels,
                    stage_width,
                    blocks,
                    1 if position == 0 else 2,
                    block.expansion,
                )
            )
            in_channels = stage_width * block.expansion
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalPool()
        self.head = nn.Linear(in_channels, num_classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        return self.head(self.pool(self.stages(self.stem(x))))  # type: ignore[no-any-return]
