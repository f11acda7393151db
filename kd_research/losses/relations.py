"""Losses on how the examples of a batch relate: gathered across processes.

Shapes: B batch (of all processes together), D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output
from kd_research.losses.gather import gather_batch
from kd_research.losses.maps import paired, pairs_of, pooled_pairs, without_padding


class SimilarityPreserving(nn.Module):
    """SP (Tung, Mori 2019, arXiv:1907.09682).

    G = A A^T of the flattened activations, its rows L2-normalised; the squared difference of
    student's and teacher's, summed and divided by B^2, summed over pairs.

    Args:
        student_layers: any activations, in the paper's CIFAR runs the last maps.
        teacher_layers: any activations, as many.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs of means over pairs of examples, ()."""
        total = student.logits.new_zeros(())
        for ours, theirs in pairs_of(self, student, teacher):
            ours, theirs = (without_padding(feature, batch) for feature in (ours, theirs))
            total = total + F.mse_loss(_similarities(ours), _similarities(theirs))
        return total


def _similarities(feature: Tensor) -> Tensor:
    rows = gather_batch(feature.flatten(1))
    return F.normalize(rows @ rows.T, dim=1)


class Relational(nn.Module):
    """RKD (Park et al. 2019, arXiv:1904.05068).

    Smooth L1 differences of the distances between examples, each over the mean distance, and of
    the cosines of the angles of all triples: distance_weight and angle_weight times their means.

    Args:
        student_layers: activations, pooled to vectors.
        teacher_layers: activations, as many, pooled to vectors.
        distance_weight: the paper's 25.
        angle_weight: the paper's 50.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        distance_weight: float,
        angle_weight: float,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        self.distance_weight = float(distance_weight)
        self.angle_weight = float(angle_weight)

    def build(self, student: Output, teacher: Output) -> None:
        """Check that the activations can be pooled."""
        pooled_pairs(self, student, teacher)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two means, weighted, summed over pairs of layers, ()."""
        total = student.logits.new_zeros(())
        for pair in pooled_pairs(self, student, teacher, batch):
            ours, theirs = (gather_batch(feature) for feature in pair)
            distance = F.smooth_l1_loss(_distances(ours), _distances(theirs))
            angle = F.smooth_l1_loss(_cosines(ours), _cosines(theirs))
            total = total + self.distance_weight * distance + self.angle_weight * angle
        return total


def _distances(rows: Tensor) -> Tensor:
    """All Euclidean distances over their mean, (B, B); 0 on the diagonal."""
    differences = rows[:, None] - rows[None]
    # Clamped: the gradient of a distance is infinite where two examples coincide.
    distances = differences.square().sum(dim=2).clamp_min(1e-12).sqrt()
    distances = distances * (1 - torch.eye(len(rows), device=rows.device))
    return distances / (distances.sum() / max(len(rows) * (len(rows) - 1), 1)).clamp_min(1e-12)


def _cosines(rows: Tensor) -> Tensor:
    """The cosine of the angle at each example between each two others, (B, B, B)."""
    directions = F.normalize(rows[None] - rows[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


class ProbabilisticTransfer(nn.Module):
    """PKT (Passalis, Tefas 2018, arXiv:1803.10837 6 and 9).

    Cosine similarities brought to [0, 1], the rows made to sum to 1: conditional probabilities of
    one example given another. The mean over B^2 of p_t log(p_t / p_s), summed over pairs.

    Args:
        student_layers: activations, pooled to vectors.
        teacher_layers: activations, as many, pooled to vectors.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)

    def build(self, student: Output, teacher: Output) -> None:
        """Check that the activations can be pooled."""
        pooled_pairs(self, student, teacher)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over pairs of examples, summed over pairs of layers, ()."""
        total = student.logits.new_zeros(())
        eps = 1e-7
        for pair in pooled_pairs(self, student, teacher, batch):
            ours, theirs = (_conditional(gather_batch(feature)) for feature in pair)
            total = total + (theirs * ((theirs + eps) / (ours + eps)).log()).mean()
        return total


def _conditional(rows: Tensor) -> Tensor:
    unit = F.normalize(rows, dim=1, eps=1e-7)
    similarities = (unit @ unit.T + 1) / 2
    return similarities / similarities.sum(dim=1, keepdim=True)


class CorrelationCongruence(nn.Module):
    """CC (Peng et al. 2019, arXiv:1904.01802).

    The Gram matrix of the batch under a Gaussian kernel by its Taylor series of the given order,
    of L2-normalised vectors x, y: sum over p of exp(-2 s) (2 s)^p / p! (x . y)^p, s being
    `kernel_scale`. The mean squared difference of student's and teacher's, summed over pairs.
    The paper's form; that of the CRD benchmark (differences of neighbours in the batch, after
    two trained embeddings) is another loss. No embedding: Gram matrices need no equal widths, and
    a trained embedding of the teacher can make the loss 0 by collapse.

    Args:
        student_layers: activations, pooled to vectors.
        teacher_layers: activations, as many, pooled to vectors.
        kernel_scale: the paper's gamma, 0.4.
        order: of the series; the paper's 2.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        kernel_scale: float = 0.4,
        order: int = 2,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        self.coefficients = [
            math.exp(-2 * kernel_scale) * (2 * kernel_scale) ** power / math.factorial(power)
            for power in range(order + 1)
        ]

    def build(self, student: Output, teacher: Output) -> None:
        """Check that the activations can be pooled."""
        pooled_pairs(self, student, teacher)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over pairs of examples, summed over pairs of layers, ()."""
        total = student.logits.new_zeros(())
        for pair in pooled_pairs(self, student, teacher, batch):
            ours, theirs = (self._gram(gather_batch(feature)) for feature in pair)
            total = total + F.mse_loss(ours, theirs)
        return total

    def _gram(self, rows: Tensor) -> Tensor:
        unit = F.normalize(rows, dim=1)
        products = unit @ unit.T
        return torch.stack([c * products**p for p, c in enumerate(self.coefficients)]).sum(dim=0)
