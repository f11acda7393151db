"""Losses on logits alone.

Shapes: B batch, C classes. Everything is computed in float32, whatever the autocast dtype, and
in log space, so that confident logits (gaps of 1000) stay finite.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive


def full(values: Tensor) -> Tensor:
    """`values` in float32, or in float64 where they are."""
    return values if values.dtype == torch.float64 else values.float()


EXCLUDED = -1e30  # a logit whose probability is exactly 0, and whose differences stay finite


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both in `full` precision, the teacher's detached.

    A class whose logit is -inf in either (a masked vocabulary) is taken out of both: it has
    probability 0 and no gradient. Left in, 0 * log 0 would make the gradient NaN.

    Raises:
        ValueError: the shapes differ or are not (B, C).
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            "student and teacher logits must both be (B, C), got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    student, teacher = full(student_logits), full(teacher_logits.detach())
    if student.numel() and bool(torch.minimum(student.detach().amin(), teacher.amin()).isneginf()):
        out = student.detach().isneginf() | teacher.isneginf()
        return student.masked_fill(out, EXCLUDED), teacher.masked_fill(out, EXCLUDED)
    return student, teacher


def class_labels(loss: nn.Module, batch: Batch) -> Tensor:
    """The labels as class numbers, (B,).

    Raises:
        ValueError: they are mixed rows, (B, C), and `loss` is about one class an example.
    """
    if batch.labels.ndim != 1:
        raise ValueError(
            f"{type(loss).__name__} treats the label's class apart, but mixup or CutMix has mixed "
            f"the labels: {tuple(batch.labels.shape)}; try dataset.augment.mixup=0 "
            "dataset.augment.cutmix=0, or another loss"
        )
    return batch.labels


def check_temperature(temperature: float) -> float:
    """The temperature itself.

    Raises:
        ValueError: it is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}; try 4.0")
    return float(temperature)


def soft_target_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    student_temperature: float | None = None,
) -> Tensor:
    """T^2 * KL(teacher || student) of the softened distributions, mean over the batch.

    T^2 keeps the gradient's scale nearly independent of T; as T grows the loss tends to half the
    mean squared difference of the centred logits, summed over classes and divided by C (Hinton,
    Vinyals, Dean 2015, arXiv:1503.02531, section 2.1).

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C); detached here.
        temperature: > 0, dimensionless. The paper uses 1 to 20 on MNIST.
        student_temperature: > 0, of the student's distribution; None is the same. T is the
            teacher's in T^2.

    Returns:
        (), nats, >= 0; 0 where the distributions are equal.

    Raises:
        ValueError: temperature <= 0, or the shapes differ.
    """
    check_temperature(temperature)
    own = temperature if student_temperature is None else check_temperature(student_temperature)
    student, teacher = check_logits(student_logits, teacher_logits)
    divergence = F.kl_div(
        F.log_softmax(student / own, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="sum",
        log_target=True,
    )
    return divergence * (temperature**2 / len(student))


class SoftTarget(nn.Module):
    """Soft targets (Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2).

    Args:
        temperature: > 0, of both softmaxes.
        student_temperature: > 0, of the student's alone, where it is another one: 1 in generalized
            distillation (Lopez-Paz et al. 2016, arXiv:1511.03643, section 4). None is the same.
    """

    def __init__(self, temperature: Positive, student_temperature: Positive | None = None):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.student_temperature = self.temperature
        if student_temperature is not None:
            self.student_temperature = check_temperature(student_temperature)
        self.takes_draws = self.temperature == 1  # linear in the teacher's distribution

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """`soft_target_loss` of the batch, ()."""
        return soft_target_loss(
            student.logits, teacher.logits, self.temperature, self.student_temperature
        )


class LogitMSE(nn.Module):
    """Mean squared difference of logits (Ba, Caruana 2014, arXiv:1312.6184, equation 1).

    The paper's 1/(2T) sum over the T examples of ||g - z||^2 is a sum over classes; here it is
    the mean over batch and classes, as every public implementation has it: the weight absorbs C/2.

    Args:
        center: subtract each row's mean first, so that a constant added to the logits, which no
            softmax sees, costs nothing. The paper does not.
    """

    def __init__(self, center: bool = False):
        super().__init__()
        self.center = center

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over batch and classes, ()."""
        difference = torch.sub(*check_logits(student.logits, teacher.logits))
        if self.center:
            difference = difference - difference.mean(dim=1, keepdim=True)
        return difference.square().mean()


class ProbabilityMSE(nn.Module):
    """||p_teacher - p_student||^2: the squared error of the probabilities, mean over the batch.

    Args:
        temperature: > 0, of both softmaxes; 1 is the definition.
    """

    def __init__(self, temperature: Positive = 1.0):
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over classes, mean over the batch, (), in [0, 2]."""
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        student_probabilities = F.softmax(student_logits / self.temperature, dim=1)
        teacher_probabilities = F.softmax(teacher_logits / self.temperature, dim=1)
        return (teacher_probabilities - student_probabilities).square().sum(dim=1).mean()


class WeightNorm(nn.Module):
    """||W_student||_2: the L2 norm (not its square) of all the student's trainable parameters."""

    needs_teacher = False

    def __init__(self) -> None:
        super().__init__()
        self._student: tuple[nn.Module, ...] = ()  # in a tuple: never registered with the loss

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Hold the student, whose weights are the argument of this loss."""
        self._student = (student,)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The norm, ()."""
        (module,) = self._student
        norms = [
            torch.linalg.vector_norm(parameter.float())
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm
