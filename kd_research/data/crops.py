"""Random boxes of an image brought to one size: the crops that ImageNet is trained with.

The draws and their limits are those of torchvision's `RandomResizedCrop`, which the published
recipes use (Szegedy et al. 2015, arXiv:1409.4842, section 6); here for a whole batch at once, on
its device.

Shapes: B batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RATIOS = (3 / 4, 4 / 3)  # width / height
TRIES = 10  # to draw a box that is inside; then it is the largest one in the middle
NUM_DRAWS = 2 * TRIES + 2


def draw_boxes(draws: Tensor, area: Sequence[float], height: int, width: int) -> Tensor:
    """(B, 4) int64: top, left, height and width of a box for each image.

    Args:
        draws: (B, NUM_DRAWS) uniform in [0, 1).
        area: the least and the largest share of the image; uniform between them.
        height: of the images.
        width: of the images.
    """
    low, high = area
    areas = (low + (high - low) * draws[:, :TRIES]) * height * width
    span = math.log(RATIOS[1] / RATIOS[0])
    ratios = (math.log(RATIOS[0]) + span * draws[:, TRIES : 2 * TRIES]).exp()
    widths, heights = (areas * ratios).sqrt().round(), (areas / ratios).sqrt().round()
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first, any_fits = fits.int().argmax(dim=1, keepdim=True), fits.any(dim=1)
    largest = (min(height, round(width / RATIOS[0])), min(width, round(height * RATIOS[1])))
    box_height, box_width = (
        torch.where(any_fits, sizes.gather(1, first).squeeze(1), float(size))
        for sizes, size in zip((heights, widths), largest, strict=True)
    )
    top = (draws[:, -2] * (height - box_height + 1)).floor()
    left = (draws[:, -1] * (width - box_width + 1)).floor()
    top = torch.where(any_fits, top, ((height - box_height) / 2).floor())
    left = torch.where(any_fits, left, ((width - box_width) / 2).floor())
    return torch.stack([top, left, box_height, box_width], dim=1).long()


def resize_boxes(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Each image's box as an image of `size`, bilinear between its own pixels, not antialiased.

    Args:
        images: (B, C, H, W), any dtype; whole numbers are rounded to.
        boxes: (B, 4) int64, as from `draw_boxes`.
        size: (height, width) to give.
    """
    top, left, height, width = boxes.float().unsqueeze(2).unbind(1)  # (B, 1) each

    def places(start: Tensor, length: Tensor, count: int, whole: int) -> Tensor:
        """(B, count) in the units of grid_sample."""
        at = start + (torch.arange(count, device=images.device) + 0.5) * length / count - 0.5
        at = torch.maximum(torch.minimum(at, start + length - 1), start)
        return (2 * at + 1) / whole - 1

    y = places(top, height, size[0], images.shape[2]).unsqueeze(2).expand(-1, -1, size[1])
    x = places(left, width, size[1], images.shape[3]).unsqueeze(1).expand(-1, size[0], -1)
    grid = torch.stack([x, y], dim=3)
    given = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return given.to(images.dtype) if images.is_floating_point() else given.round().to(images.dtype)


def centre(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of (B, C, H, W) images; themselves where they have that size."""
    top, left = ((have - want) // 2 for have, want in zip(images.shape[2:], size, strict=True))
    return images[:, :, top : top + size[0], left : left + size[1]]
