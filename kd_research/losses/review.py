"""ReviewKD: each level of the teacher from this level of the student and all deeper ones.

Shapes: B batch, c channels, h and w height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Count, Output
from kd_research.losses.maps import conv1x1, paired, pairs_of, require_maps


class Fusion(nn.Module):
    """Attention-based fusion: a level's map, mixed with the residual of the deeper levels.

    Args:
        channels_in: of the student's level.
        channels: of the residual.
        channels_out: of the teacher's level.
        fuses: whether there is a deeper level.
    """

    def __init__(self, channels_in: int, channels: int, channels_out: int, fuses: bool):
        super().__init__()
        self.squeeze = nn.Sequential(conv1x1(channels_in, channels), nn.BatchNorm2d(channels))
        self.attention = nn.Conv2d(2 * channels, 2, 1) if fuses else None
        self.expand = nn.Sequential(
            nn.Conv2d(channels, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(
        self, level: Tensor, residual: Tensor | None, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """The teacher's level as seen from here, (B, channels_out, *size), and the new residual."""
        own = self.squeeze(level)
        if self.attention is not None:
            assert residual is not None
            deeper = F.interpolate(residual, own.shape[2:], mode="nearest")
            share = self.attention(torch.cat((own, deeper), dim=1)).sigmoid()
            own = own * share[:, :1] + deeper * share[:, 1:]
        at_size = own if own.shape[2:] == size else F.interpolate(own, size, mode="nearest")
        return self.expand(at_size), own


class Review(nn.Module):
    """ReviewKD (Chen et al. 2021, arXiv:2104.09044).

    From the deepest level up, the student's level and the residual of the deeper ones are fused
    by attention, brought to the teacher's shape and compared with its level by `pyramid_loss`;
    the sum over levels.

    Args:
        student_layers: maps, shallow to deep.
        teacher_layers: maps, as many.
        max_channels: the residual has as many channels as the student's deepest level, but no
            more than this; the authors' 512 (256 for one ImageNet pair).
    """

    def __init__(
        self, student_layers: Sequence[str], teacher_layers: Sequence[str], max_channels: Count
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        self.max_channels = int(max_channels)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the fusions."""
        pairs = require_maps(self, student, teacher)
        channels = min(self.max_channels, pairs[-1][0].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(ours.shape[1], channels, theirs.shape[1], fuses=level < len(pairs) - 1)
            for level, (ours, theirs) in enumerate(pairs)
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over levels, ()."""
        total = student.logits.new_zeros(())
        residual: Tensor | None = None
        pairs = pairs_of(self, student, teacher)
        for fuse, (ours, theirs) in reversed(list(zip(self.fusions, pairs, strict=True))):
            seen, residual = fuse(ours, residual, theirs.shape[2:])
            total = total + pyramid_loss(seen, theirs)
        return total


def pyramid_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss: mean squared differences of a pyramid of poolings, ().

    The full maps count 1, and each pooling to 4, 2 and 1 positions a side that is smaller than
    the map half of the one before; divided by the sum of these weights.
    """
    loss, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= student.shape[2]:
            continue
        weight /= 2
        ours, theirs = (F.adaptive_avg_pool2d(maps, side) for maps in (student, teacher))
        loss = loss + weight * F.mse_loss(ours, theirs)
        weights += weight
    return loss / weights
