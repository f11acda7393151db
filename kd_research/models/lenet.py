"""LeNet-5 (LeCun et al. 1998), as the papers on distillation without data have it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kd_research.interfaces import Count


class LeNet(nn.Module):
    """Stages of 5x5 convolution, ReLU and 2x2 max-pooling, then hidden layers and a linear head.

    With channels [6, 16] 61,706 parameters on MNIST, with [3, 8] 35,820: teacher and student of
    ZSKD (Nayak et al. 2019, arXiv:1905.08114) and DAFL (Chen et al. 2019, arXiv:1904.01186).

    Layers: `stages.0`, `stages.1` (B, channels, H, W), `layers.0` ... (B, units), `pool` (B,
    units), which is what the head sees and has that name in all families, `head` (B, C).

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes: C.
        channels: of each stage.
        units: of each hidden layer; there may be none.
        padding: pixels around the image: 2 makes 28x28 LeNet's own 32x32.

    Raises:
        ValueError: the input is no image, or too small for the stages.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[Count] = (6, 16),
        units: Sequence[Count] | tuple[()] = (120, 84),
        padding: int = 2,
    ):
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(
                f"LeNet needs images (channels, height, width), got input_shape={[*input_shape]}; "
                "try model mlp"
            )
        side = min(input_shape[1:]) + 2 * padding
        for _ in channels:
            side = (side - 4) // 2
        if side < 1:
            raise ValueError(
                f"LeNet's {len(channels)} stages leave nothing of an image of "
                f"{input_shape[1]}x{input_shape[2]}; try model cnn, or fewer model.channels"
            )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 5, padding=padding if position == 0 else 0),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for position, (before, after) in enumerate(pairwise([input_shape[0], *channels]))
            )
        )
        self.flatten = nn.Flatten()
        with torch.no_grad():
            width = self.flatten(self.stages(torch.zeros(1, *input_shape))).shape[1]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU())
            for before, after in pairwise([width, *units])
        )
        self.pool = nn.Identity()
        self.head = nn.Linear(units[-1] if units else width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, H, W) -> logits (B, C)."""
        hidden = self.flatten(self.stages(inputs))
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(self.pool(hidden))
        return logits
