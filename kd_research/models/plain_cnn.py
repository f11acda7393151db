"""Plain convolutional nets as in Mirzadeh et al. 2020 (TAKD, arXiv:1902.03393, appendix)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PlainCNN(nn.Module):
    """Stages of 3x3 convolutions with BatchNorm and ReLU, 2x2 max-pooling after each, a head.

    The head reads all positions of the last map, behind any hidden layers. Nets are named by their
    number of convolutions and hidden layers.

    Layers: `stages.0` ... (B, channels, H, W), after the pooling; `pool` (B, units), what the head
    reads, `head`.

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes: C.
        channels: of each convolution, a list a stage.
        hidden: units of the layers before the head.

    Raises:
        ValueError: the input is no image, or too small for the stages.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[Sequence[int]],
        hidden: Sequence[int] = (),
    ):
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 2 ** len(channels):
            raise ValueError(
                f"a PlainCNN of {len(channels)} stages needs images (channels, height, width) of "
                f"{2 ** len(channels)} pixels a side or more, got input_shape={[*input_shape]}; "
                "try model mlp, or model.channels=[[16]]"
            )
        before, stages = input_shape[0], []
        for widths in channels:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.stages = nn.Sequential(*stages)
        with torch.no_grad():
            units = self.stages.eval()(torch.zeros(1, *input_shape)).numel()
        self.stages.train()
        parts: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        for place, width in enumerate(hidden):
            parts += [(f"linear{place}", nn.Linear(units, width)), (f"relu{place}", nn.ReLU())]
            units = width
        self.pool = nn.Sequential(OrderedDict(parts))
        self.head = nn.Linear(units, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, H, W) -> logits (B, C)."""
        logits: Tensor = self.head(self.pool(self.stages(inputs)))
        return logits
