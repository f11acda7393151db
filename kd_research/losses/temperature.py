"""Losses on logits that change the scale of the logits, by rule or by learning.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Count, Output, Positive
from kd_research.losses.logits import check_logits, check_temperature, soft_target_loss


def standardize(logits: Tensor) -> Tensor:
    """Each row less its mean, over its (unbiased) standard deviation, (B, C) float32."""
    logits = logits.float()
    deviation, mean = torch.std_mean(logits, dim=1, keepdim=True)
    return (logits - mean) / (deviation + 1e-7)


class Standardized(nn.Module):
    """Logit standardisation before any loss on logits (Sun et al. 2024, arXiv:2403.01427).

    Algorithm 1: both rows of logits get mean 0 and standard deviation 1, so that the student
    need not learn the teacher's scale. The loss is then blind to shift and scale of either.

    Args:
        loss: a loss that looks at logits alone: SoftTarget and DecoupledKD in the paper.
    """

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The inner loss of the standardised logits, ()."""
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        result: Tensor = self.loss(
            Output(standardize(student_logits), {}), Output(standardize(teacher_logits), {}), batch
        )
        return result


class Spherical(nn.Module):
    """Spherical KD (Guo et al. 2020, arXiv:2010.07485).

    Soft targets after each row of logits is centred and brought to one norm: standard deviation
    (biased) `multiplier`. The paper gives the student the teacher's mean norm; the fixed
    multiplier is the form of PaddleClas, which can be stated without a pass over the data.

    Args:
        temperature: > 0.
        multiplier: > 0, the standard deviation after scaling; PaddleClas: 2.
    """

    def __init__(self, temperature: Positive, multiplier: float):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.multiplier = float(multiplier)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """T^2 * KL on the sphere, mean over the batch, ()."""
        student_logits, teacher_logits = (
            F.layer_norm(logits, logits.shape[1:], eps=1e-7) * self.multiplier
            for logits in check_logits(student.logits, teacher.logits)
        )
        return soft_target_loss(student_logits, teacher_logits, self.temperature)


class TransformedTeacher(nn.Module):
    """TTM and WTTM (Zheng, Yang 2024, arXiv:2402.11148).

    KL(q || p_student) at the student's temperature 1, where q is p_teacher^power, normalised
    (temperature 1/power on the teacher's side only).

    Args:
        power: in (0, 1]; the paper's gamma, 0.1 in most pairs.
        weighted: WTTM: multiply each example by its sum of p_teacher^power, in [1, C^(1-power)],
            which is larger where the teacher is less sure.
    """

    def __init__(self, power: Annotated[float, "in (0, 1]"], weighted: bool):
        super().__init__()
        if not 0 < power <= 1:
            raise ValueError(f"power must be in (0, 1], got {power}; try 0.1")
        self.power = float(power)
        self.weighted = weighted

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The divergence, mean over the batch, ()."""
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        log_power = self.power * teacher_logits.log_softmax(dim=1)
        divergence = F.kl_div(
            student_logits.log_softmax(dim=1),
            log_power.log_softmax(dim=1),
            reduction="none",
            log_target=True,
        ).sum(dim=1)
        if self.weighted:
            divergence = divergence * log_power.logsumexp(dim=1).exp()
        return divergence.mean()


class _ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -strength."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        """The value."""
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Minus `strength` times the gradient."""
        return -ctx.strength * gradients[0], None


class CurriculumTemperature(nn.Module):
    """CTKD, the global temperature (Li et al. 2023, arXiv:2211.16231).

    Soft targets at T = 1 + 20 sigmoid(theta), theta being learnt to make the loss larger: its
    gradient is reversed, with a strength that goes from 0 to 1 by half a cosine.

    Args:
        warmup_epochs: epochs until the reversed gradient has full strength; the authors' 10.
        minimum: T lies above it; the authors' 1.
        span: T lies below minimum + span; the authors' 20.
    """

    def __init__(self, warmup_epochs: int, minimum: float = 1.0, span: float = 20.0):
        super().__init__()
        self.minimum = check_temperature(minimum)
        self.span = check_temperature(span)
        self.warmup_epochs = warmup_epochs
        self.theta = nn.Parameter(torch.ones(()))
        self.set_epoch(0, 1)

    def set_epoch(self, epoch: int, max_epochs: int) -> None:
        """Set the strength of the reversed gradient for this epoch, counted from 0."""
        done = min((epoch + 1) / max(self.warmup_epochs, 1), 1.0)
        self.strength = 0.5 * (1 - math.cos(math.pi * done))

    def temperature(self) -> Tensor:
        """The temperature now, ()."""
        theta: Tensor = _ReverseGradient.apply(self.theta, self.strength)  # type: ignore[no-untyped-call]
        return self.minimum + self.span * torch.sigmoid(theta)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """T^2 * KL, mean over the batch, ()."""
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        temperature = self.temperature()
        divergence = F.kl_div(
            (student_logits / temperature).log_softmax(dim=1),
            (teacher_logits / temperature).log_softmax(dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * temperature**2


class AnnealedLogits(nn.Module):
    """Annealing-KD, its first stage (Jafari et al. 2021, arXiv:2104.07163).

    Mean over batch and classes of (z_s - Phi(T) z_t)^2, Phi = 1 - (T - 1) / T_max, while T goes
    from T_max down to 1 in whole steps over the stage: the student starts from soft logits. The
    second stage, labels alone, is the training itself: see conf/loss/annealing_kd.yaml.

    Args:
        max_temperature: the whole number T starts from; the paper's 10 for images.
    """

    def __init__(self, max_temperature: Count):
        super().__init__()
        if max_temperature < 1:
            raise ValueError(f"max_temperature must be >= 1, got {max_temperature}; try 10")
        self.max_temperature = int(max_temperature)
        self.set_epoch(0, 1)

    def set_epoch(self, epoch: int, max_epochs: int) -> None:
        """Set the temperature for this epoch of the stage, counted from 0."""
        step = min(int(self.max_temperature * epoch / max_epochs), self.max_temperature - 1)
        self.temperature = self.max_temperature - step

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The squared error, ()."""
        student_logits, teacher_logits = check_logits(student.logits, teacher.logits)
        factor = 1 - (self.temperature - 1) / self.max_temperature
        return F.mse_loss(student_logits, factor * teacher_logits)
