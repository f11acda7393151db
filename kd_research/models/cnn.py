"""A small convolutional net."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class CNN(nn.Module):
    """`depth` blocks of 3x3 convolution, BatchNorm and ReLU, then global average pooling.

    The first block keeps the resolution; each later one halves it and doubles the channels, until
    the maps are 2 pixels wide, from where on blocks keep both.

    Layers: `stages.0` ... `stages.{depth-1}` (B, channels, H, W), `pool` (B, channels), `head`, as
    in the other convolutional families: the feature losses' defaults fit all of them.

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes: C.
        width: channels of the first block.
        depth: number of blocks.

    Raises:
        ValueError: a size below 1, or inputs that are no images.
    """

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, width: int = 16, depth: int = 3
    ):
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(
                f"a CNN needs images (channels, height, width), got input_shape={[*input_shape]}; "
                "try model mlp"
            )
        if width < 1 or depth < 1 or num_classes < 2:
            raise ValueError(
                f"a CNN needs width >= 1, depth >= 1, num_classes >= 2, got width={width}, "
                f"depth={depth}, num_classes={num_classes}"
            )
        channels, size, blocks = input_shape[0], min(input_shape[1:]), []
        fan_out = width
        for index in range(depth):
            halve = index > 0 and size >= 4
            fan_out = fan_out * 2 if halve else fan_out
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(
                        channels, fan_out, 3, stride=2 if halve else 1, padding=1, bias=False
                    ),
                    nn.BatchNorm2d(fan_out),
                    nn.ReLU(),
                )
            )
            channels, size = fan_out, (size + 1) // 2 if halve else size
        self.stages = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, H, W) -> logits (B, C)."""
        logits: Tensor = self.head(self.pool(self.stages(inputs)))
        return logits
