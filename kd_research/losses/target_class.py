"""Losses on logits that treat the labelled class apart.

Shapes: B batch, C classes. All in float32 and in log space: log(softmax) and log(1 - p), as the
public code of DKD and RLD has them, are infinite for a confident student.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive
from kd_research.losses.logits import check_logits, check_temperature, class_labels


def without_class(logits: Tensor, classes: Tensor) -> Tensor:
    """The logits of all classes but one.

    Args:
        logits: (B, C), C >= 2.
        classes: (B,), the class to leave out of each row.

    Returns:
        (B, C - 1), the others in their order.
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(logits.shape[0], -1)
    return logits.gather(1, others + (others >= classes[:, None]))


def binary_log_probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """Log of (p of the class, p of all others together), (B, 2)."""
    log_total = logits.logsumexp(dim=1)
    chosen = logits.gather(1, classes[:, None])[:, 0]
    others = without_class(logits, classes).logsumexp(dim=1)
    return torch.stack((chosen - log_total, others - log_total), dim=1)


def kl_divergence(log_teacher: Tensor, log_student: Tensor) -> Tensor:
    """KL(teacher || student) summed over classes, mean over the batch, ()."""
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


class DecoupledKD(nn.Module):
    """DKD (Zhao et al. 2022, arXiv:2203.08679, equation 7).

    T^2 (target_weight * TCKD + non_target_weight * NCKD): TCKD is the KL divergence of "the
    label or not", NCKD that of the softmax over the other classes. Soft targets weigh NCKD by
    1 - p_teacher(label); here it has a weight of its own.

    Args:
        temperature: > 0; CIFAR-100: 4, ImageNet: 1.
        target_weight: of TCKD; the paper's alpha, 1.
        non_target_weight: of NCKD; the paper's beta: 8 (2 to 8 by pair), ImageNet 0.5.
    """

    def __init__(self, temperature: Positive, target_weight: float, non_target_weight: float):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.target_weight = float(target_weight)
        self.non_target_weight = float(non_target_weight)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two divergences, weighted, mean over the batch, ()."""
        labels = class_labels(self, batch)
        student_logits, teacher_logits = (
            logits / self.temperature for logits in check_logits(student.logits, teacher.logits)
        )
        target = kl_divergence(
            binary_log_probabilities(teacher_logits, labels),
            binary_log_probabilities(student_logits, labels),
        )
        non_target = kl_divergence(
            without_class(teacher_logits, labels).log_softmax(dim=1),
            without_class(student_logits, labels).log_softmax(dim=1),
        )
        return self.temperature**2 * (
            self.target_weight * target + self.non_target_weight * non_target
        )


class NormalizedKD(nn.Module):
    """NKD (Yang et al. 2023, arXiv:2303.13005).

    -p_t(y) log p_s(y) - non_target_weight * T^2 * sum over the other classes of q_t log q_s, with
    q the softmax over the others alone at temperature T, and p at temperature 1. Cross-entropies,
    not divergences: not 0 at equality. As in the authors' code, the labels' cross-entropy is
    added by `ce_weight`.

    Args:
        temperature: > 0; the paper uses 1.
        non_target_weight: the paper's gamma, 1.5.
    """

    def __init__(self, temperature: Positive, non_target_weight: float):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.non_target_weight = float(non_target_weight)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two cross-entropies, mean over the batch, ()."""
        labels = class_labels(self, batch)
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        label = labels[:, None]
        teacher_target = teacher_logits.softmax(dim=1).gather(1, label)
        student_target = student_logits.log_softmax(dim=1).gather(1, label)
        others = F.cross_entropy(
            without_class(student_logits, labels) / self.temperature,
            (without_class(teacher_logits, labels) / self.temperature).softmax(dim=1),
        )
        target = -(teacher_target * student_target).mean()
        return target + self.non_target_weight * self.temperature**2 * others


class WeightedSoftLabel(nn.Module):
    """WSLD (Zhou et al. 2021, arXiv:2102.00650).

    T^2 * mean of w_i CE(p_t^T, p_s^T), w_i = 1 - exp(-CE_s / CE_t) with the labels'
    cross-entropies at T = 1, not differentiated: an example that the student already has right
    better than the teacher counts little. A cross-entropy: not 0 at equality.

    Args:
        temperature: > 0; ImageNet: 2, CIFAR-100: 4.
    """

    def __init__(self, temperature: Positive):
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The weighted cross-entropy, mean over the batch, ()."""
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        soft = F.cross_entropy(
            student_logits / self.temperature,
            (teacher_logits / self.temperature).softmax(dim=1),
            reduction="none",
        )
        with torch.no_grad():
            student_ce = F.cross_entropy(student_logits, batch.labels, reduction="none")
            teacher_ce = F.cross_entropy(teacher_logits, batch.labels, reduction="none")
            weight = -torch.expm1(-student_ce / teacher_ce.clamp_min(1e-7))
        return self.temperature**2 * (weight * soft).mean()


class RefinedLogit(nn.Module):
    """RLD (Sun et al. 2024, arXiv:2408.07703).

    confidence_weight * SCD + masked_weight * MCD. SCD: the KL divergence between (the teacher's
    largest probability, the rest) and (the student's probability of the label, the rest), so that
    a wrong teacher gives its confidence and not its class. MCD: soft targets over the classes
    that the teacher puts below the label; none are left where the label is the teacher's last.

    Args:
        temperature: > 0, of MCD; CIFAR-100: 4.
        confidence_temperature: > 0, of SCD; CIFAR-100: 4.
        confidence_weight: the paper's alpha, 1.
        masked_weight: the paper's beta, 8 (2 to 8 by pair, as in DKD).
    """

    def __init__(
        self,
        temperature: Positive,
        confidence_temperature: Positive,
        confidence_weight: float,
        masked_weight: float,
    ):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.confidence_temperature = check_temperature(confidence_temperature)
        self.confidence_weight = float(confidence_weight)
        self.masked_weight = float(masked_weight)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The two divergences, weighted, mean over the batch, ()."""
        labels = class_labels(self, batch)
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        temperature = self.confidence_temperature
        confidence = temperature**2 * kl_divergence(
            binary_log_probabilities(teacher_logits / temperature, teacher_logits.argmax(dim=1)),
            binary_log_probabilities(student_logits / temperature, labels),
        )
        hidden = teacher_logits >= teacher_logits.gather(1, labels[:, None])
        # A finite fill: where all classes are hidden both rows are equal and give 0, not nan.
        log_teacher, log_student = (
            (logits / self.temperature).masked_fill(hidden, -1e9).log_softmax(dim=1)
            for logits in (teacher_logits, student_logits)
        )
        masked = self.temperature**2 * kl_divergence(log_teacher, log_student)
        return self.confidence_weight * confidence + self.masked_weight * masked
