"""Losses on the correlation of logits.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive
from kd_research.losses.gather import gather_batch
from kd_research.losses.logits import check_logits, check_temperature


def pearson_distance(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """1 - Pearson's correlation along `dim`, mean over the rest, (); 1 where nothing varies."""
    student = student - student.mean(dim=dim, keepdim=True)
    teacher = teacher - teacher.mean(dim=dim, keepdim=True)
    return 1 - F.cosine_similarity(student, teacher, dim=dim, eps=1e-8).mean()


class DIST(nn.Module):
    """DIST (Huang et al. 2022, arXiv:2205.10536).

    T^2 (inter_weight * mean over examples of 1 - rho between their rows of probabilities
    + intra_weight * mean over classes of 1 - rho between their columns). The columns are over the
    whole batch: gathered across processes.

    Args:
        temperature: > 0; CIFAR-100: 4, ImageNet: 1.
        inter_weight: of the rows; the paper's beta, 2 on ImageNet.
        intra_weight: of the columns; the paper's gamma, 2 on ImageNet.
    """

    compares_examples = True  # so that it cannot be computed in chunks

    def __init__(self, temperature: Positive, inter_weight: float, intra_weight: float):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.inter_weight = float(inter_weight)
        self.intra_weight = float(intra_weight)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two correlation distances, weighted, ()."""
        student_probabilities, teacher_probabilities = (
            gather_batch((logits / self.temperature).softmax(dim=1))
            for logits in check_logits(student.logits, teacher.logits)
        )
        inter = pearson_distance(student_probabilities, teacher_probabilities, dim=1)
        intra = pearson_distance(student_probabilities, teacher_probabilities, dim=0)
        return self.temperature**2 * (self.inter_weight * inter + self.intra_weight * intra)
