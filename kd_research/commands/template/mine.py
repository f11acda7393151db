"""Own parts, one of each: conf/ names them, nothing else has to know."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.data.sources import Split, Splits
from kd_research.interfaces import Batch, Output


class Cosine(nn.Module):
    """One minus the cosine between the centred logits of student and teacher."""

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over the batch, ()."""
        ours, theirs = (logits - logits.mean(1, True) for logits in (student[0], teacher[0]))
        return 1 - F.cosine_similarity(ours, theirs).mean()


class Tiny(nn.Sequential):
    """One hidden layer, from flat inputs to logits."""

    def __init__(self, num_features: int, num_classes: int, width: int):
        super().__init__(nn.Linear(num_features, width), nn.ReLU(), nn.Linear(width, num_classes))


def spirals() -> Splits:
    """1,200 points on two noisy spirals."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 2
    turn = torch.rand(1200, generator=generator) * 5
    angle, noise = turn + labels * torch.pi, torch.randn(1200, 2, generator=generator) / 20
    points = torch.stack([angle.cos(), angle.sin()], 1) * (turn + 1)[:, None] / 2
    return Splits(Split(points + noise, labels))
