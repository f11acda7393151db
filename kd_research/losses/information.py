"""Losses on the statistics of projected representations over the batch: gathered across processes.

Shapes: B batch (of all processes together), D width of the teacher's vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive
from kd_research.losses.gather import gather_batch
from kd_research.losses.logits import check_temperature, soft_target_loss
from kd_research.losses.maps import paired, pooled_pairs, standardized_columns

_LEAST = 1e-5  # under the logarithms: at equality these losses go to minus infinity


class InformationTheoretic(nn.Module):
    """ITRD (Miles, Rodriguez, Mikolajczyk 2022, arXiv:2112.00459).

    correlation_weight * log2 of the sum over features of |1 - rho|^(2 power), rho being the
    correlation of the teacher's feature with the student's, linearly embedded; plus mutual_weight
    * sum(G_s^2) - sum(G_st^2), the Gram matrices of L2-normalised rows, G_st their entrywise
    product, each over its trace. Below 0 near equality; the sum has 1e-5 added.

    Args:
        student_layers: one layer, pooled to a vector.
        teacher_layers: one layer, pooled to a vector.
        correlation_weight: the paper's beta_corr, 2.
        mutual_weight: the paper's beta_mi, 1.
        power: the paper's alpha, 1.5 on CIFAR-100.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        correlation_weight: float,
        mutual_weight: float,
        power: float,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.correlation_weight = float(correlation_weight)
        self.mutual_weight = float(mutual_weight)
        self.power = float(power)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the embedding."""
        ((ours, theirs),) = pooled_pairs(self, student, teacher)
        self.embedding = nn.Linear(ours.shape[1], theirs.shape[1])

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two parts, weighted, ()."""
        ((ours, theirs),) = pooled_pairs(self, student, teacher, batch)
        ours, theirs = gather_batch(self.embedding(ours)), gather_batch(theirs)
        correlations = (standardized_columns(ours) * standardized_columns(theirs)).mean(dim=0)
        spread = (1 - correlations).abs().pow(2 * self.power).sum()
        student_gram, teacher_gram = (
            rows @ rows.T for rows in (F.normalize(ours, dim=1), F.normalize(theirs, dim=1))
        )
        joint = student_gram * teacher_gram
        mutual = _over_trace(student_gram).square().sum() - _over_trace(joint).square().sum()
        return self.correlation_weight * (spread + _LEAST).log2() + self.mutual_weight * mutual


def _over_trace(gram: Tensor) -> Tensor:
    return gram / torch.trace(gram).clamp_min(1e-12)


class SimpleRecipe(nn.Module):
    """SRD (Miles, Mikolajczyk 2024, arXiv:2303.11098).

    feature_weight * log of the sum over batch and features of |N(P f_s) - N(f_t)|^power, P a
    linear projector and N the standardisation over the batch (BatchNorm without parameters), plus
    soft targets at `temperature`. Below 0 near equality; the sum has 1e-5 added.

    Args:
        student_layers: one layer, pooled to a vector.
        teacher_layers: one layer, pooled to a vector.
        power: the paper's alpha, 4.
        feature_weight: 2 in the authors' ImageNet code.
        temperature: of the soft targets; 1 there.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        power: float,
        feature_weight: float,
        temperature: Positive,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.power = float(power)
        self.feature_weight = float(feature_weight)
        self.temperature = check_temperature(temperature)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the projector."""
        ((ours, theirs),) = pooled_pairs(self, student, teacher)
        self.projector = nn.Linear(ours.shape[1], theirs.shape[1])

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two parts, weighted, ()."""
        ((ours, theirs),) = pooled_pairs(self, student, teacher, batch)
        ours, theirs = gather_batch(self.projector(ours)), gather_batch(theirs)
        difference = standardized_columns(ours) - standardized_columns(theirs)
        distance = (difference.abs().pow(self.power).sum() + _LEAST).log()
        soft = soft_target_loss(student.logits, teacher.logits, self.temperature)
        return self.feature_weight * distance + soft
