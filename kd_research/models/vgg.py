"""VGG with batch normalisation and one linear layer, for small images.

After Simonyan, Zisserman 2015 (arXiv:1409.1556); the sizes, vgg8 among them, are those of the
distillation benchmark (Tian, Krishnan, Isola 2020, arXiv:1910.10699). On images of at most 32
pixels it max-pools three times, not five.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kd_research.models.layers import GlobalPool, check_width, image_channels, init_he

_CONVOLUTIONS = {  # depth -> convolutions of each of the five stages
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """Five stages of (1, 2, 4, 8, 8) * `width` channels.

    `stages.i` gives the activations of a stage; the max-pooling opens the next stage.

    Args:
        num_classes: C.
        input_shape: (channels, height, width) of an image.
        depth: 8, 11, 13, 16 or 19.
        width: channels of the first stage; 64 in the papers.

    Raises:
        ValueError: an unknown depth, or width below 1.
    """

    def __init__(self, num_classes: int, input_shape: Sequence[int], depth: int, width: int = 64):
        super().__init__()
        if depth not in _CONVOLUTIONS:
            raise ValueError(f"depth must be one of {sorted(_CONVOLUTIONS)}, got {depth}")
        width = check_width(width)
        in_channels = image_channels(input_shape)
        num_pools = 4 if max(input_shape[1:]) >= 64 else 3
        stages = []
        for position, count in enumerate(_CONVOLUTIONS[depth]):
            out_channels = width * min(2**position, 8)
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if 0 < position <= num_pools else []
            for _ in range(count):
                layers += [
                    nn.Conv2d(in_channels, out_channels, 3, padding=1),
                    nn.BatchNorm2d(out_channels),
                    nn.ReLU(),
                ]
                in_channels = out_channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.pool = GlobalPool()
        self.head = nn.Linear(in_channels, num_classes)
        init_he(self)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, C)."""
        return self.head(self.pool(self.stages(x)))  # type: ignore[no-any-return]
