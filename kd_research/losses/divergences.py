"""Divergences between teacher and student by name: forward, reverse, mixed, skewed, and more.

All are sums over classes, means over the rows, and are multiplied by T^2 as `SoftTarget` is (most
papers on language models use T = 1 and have no such factor). Everything is in log space, in
float32 or float64; mixtures are formed by `logaddexp` relative to p or q, so that weights near 0
and 1 lose no digits.

Modes: `ReverseKL`, `SkewReverseKL` and `AdaptiveKL` seek modes. From random weights they first
find wrong ones: start the student from weights, or train it on the labels for a while.

Shapes: N rows (examples, or valid positions), C classes (V tokens). p is the teacher's
distribution, q the student's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from torch import Tensor, nn

from kd_research.interfaces import Batch, NotNegative, Output, Positive, Share, ShareBelow1
from kd_research.losses.logits import check_logits, check_temperature


def distributions(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log p and log q at the temperature, each (N, C), the teacher's detached.

    Raises:
        ValueError: temperature <= 0, or the shapes differ.
    """
    student, teacher = check_logits(student_logits, teacher_logits)
    return (teacher / temperature).log_softmax(1), (student / temperature).log_softmax(1)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) of each row, (N,)."""
    return (log_a.exp() * (log_a - log_b)).sum(1)


def kl_to_mixture(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """KL(a || weight * a + (1 - weight) * b) of each row, (N,); weight in [0, 1].

    The mixture is taken relative to a, so that a small difference keeps its digits.
    """
    own = math.log(weight) if weight > 0 else -math.inf
    other = math.log1p(-weight) if weight < 1 else -math.inf
    first = torch.full((), own, dtype=log_a.dtype, device=log_a.device)
    relative = torch.logaddexp(first, (log_b - log_a) + other)
    return -(log_a.exp() * relative).sum(1)


class _Divergence(nn.Module, ABC):
    """What is common: the temperature, and the mean over rows."""

    def __init__(self, temperature: Positive):
        super().__init__()
        self.temperature = check_temperature(temperature)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """T^2 times the mean over the rows, (), nats."""
        log_p, log_q = distributions(student.logits, teacher.logits, self.temperature)
        return self.temperature**2 * self.rows(log_p, log_q).mean()

    @abstractmethod
    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of each row, (N,)."""


class ReverseKL(_Divergence):
    """KL(q || p) (the single-step term of MiniLLM; Gu et al. 2024, arXiv:2306.08543, section 2.1).

    Args:
        temperature: > 0, of both softmaxes.
    """

    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of each row, (N,)."""
        return kl(log_q, log_p)


class JensenShannon(_Divergence):
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD, arXiv:2306.13649).

    The paper's form (Agarwal et al. 2024, equation 1) goes to 0 at both ends: at beta = 0 and 1
    nothing trains. Normalised it is divided by beta (1 - beta), which makes it continuous with the
    limits KL(p || q) at 0 and KL(q || p) at 1.

    Args:
        temperature: > 0, of both softmaxes.
        beta: in [0, 1], the teacher's weight in the mixture; the paper uses 0.1, 0.5 and 0.9.
        normalise: divide by beta (1 - beta). False is TRL's function, which at 0 and 1 has the two
            KL divergences as special cases.

    Raises:
        ValueError: beta outside [0, 1].
    """

    def __init__(self, temperature: Positive, beta: Share, normalise: bool = True):
        super().__init__(temperature)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must be in [0, 1], got {beta}; try loss.beta=0.5")
        self.beta, self.normalise = float(beta), bool(normalise)

    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of each row, (N,)."""
        beta = self.beta
        if beta == 0:
            return kl(log_p, log_q)
        if beta == 1:
            return kl(log_q, log_p)
        teacher = kl_to_mixture(log_p, log_q, beta)
        student = kl_to_mixture(log_q, log_p, 1 - beta)
        if self.normalise:
            return teacher / (1 - beta) + student / beta
        return beta * teacher + (1 - beta) * student


class SkewKL(_Divergence):
    """KL(p || alpha p + (1 - alpha) q) (DistiLLM; Ko et al. 2024, arXiv:2402.03898, section 3.1).

    Args:
        temperature: > 0, of both softmaxes.
        alpha: in [0, 1); 0 is KL(p || q). The paper uses 0.1.

    Raises:
        ValueError: alpha outside [0, 1).
    """

    def __init__(self, temperature: Positive, alpha: ShareBelow1):
        super().__init__(temperature)
        self.alpha = _share(alpha)

    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of each row, (N,)."""
        return kl_to_mixture(log_p, log_q, self.alpha)


class SkewReverseKL(_Divergence):
    """KL(q || (1 - alpha) p + alpha q) (DistiLLM; Ko et al. 2024, arXiv:2402.03898, section 3.1).

    Args:
        temperature: > 0, of both softmaxes.
        alpha: in [0, 1); 0 is KL(q || p). The paper uses 0.1.

    Raises:
        ValueError: alpha outside [0, 1).
    """

    def __init__(self, temperature: Positive, alpha: ShareBelow1):
        super().__init__(temperature)
        self.alpha = _share(alpha)

    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of each row, (N,)."""
        return kl_to_mixture(log_q, log_p, self.alpha)


def _share(alpha: float) -> float:
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}; try loss.alpha=0.1")
    return float(alpha)


class TotalVariation(_Divergence):
    """1/2 sum |p - q| (f-distill; Wen et al. 2023, arXiv:2307.15190, section 2.2), in [0, 1].

    Args:
        temperature: > 0, of both softmaxes.
    """

    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The distance of each row, (N,)."""
        return (log_p.exp() - log_q.exp()).abs().sum(1) / 2


class AdaptiveKL(_Divergence):
    """w KL(p || q) + (1 - w) KL(q || p), w by where the gap is (AKL; Wu et al. 2024).

    arXiv:2404.02657, section 4: w is the head's share of sum |p - q|, constant for the gradient.
    The head are the teacher's most probable classes while their joint probability is at most
    `head`, and the first in any case.

    Args:
        temperature: > 0, of both softmaxes.
        head: in (0, 1); the paper's 0.5.

    Raises:
        ValueError: head outside (0, 1).
    """

    def __init__(self, temperature: Positive, head: Annotated[float, "in (0, 1)"] = 0.5):
        super().__init__(temperature)
        if not 0 < head < 1:
            raise ValueError(f"head must be in (0, 1), got {head}; try loss.head=0.5")
        self.head = float(head)

    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of each row, (N,)."""
        share = self._share(log_p, log_q.detach())
        return share * kl(log_p, log_q) + (1 - share) * kl(log_q, log_p)

    def _share(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The head's share of the gap, (N,); one half where there is no gap."""
        p, order = log_p.exp().sort(dim=1, descending=True)
        gap = (p - log_q.exp().gather(1, order)).abs()
        in_head = p.cumsum(1) <= self.head
        in_head[:, 0] = True
        whole = gap.sum(1)
        share = (gap * in_head).sum(1) / whole.clamp_min(torch.finfo(whole.dtype).tiny)
        return torch.where(whole > 0, share, torch.full_like(share, 0.5))


class AlphaBeta(_Divergence):
    """The alpha-beta divergence (ABKD; Wang et al. 2025, arXiv:2505.04560; Cichocki et al. 2011).

    -1 / (a b) sum [p^a q^b - a / (a + b) p^(a + b) - b / (a + b) q^(a + b)], its limit where a or
    b is 0: (1, 0) is KL(p || q), (0, 1) is KL(q || p), (1/2, 1/2) is 2 sum (sqrt p - sqrt q)^2,
    four squared Hellinger distances. Computed as 1 / (a + b) times
    sum (p^(a + b) - p^a q^b) / b - (p^a q^b - q^(a + b)) / a, whose parts keep their digits as b
    or a goes to 0.

    Args:
        temperature: > 0, of both softmaxes.
        alpha: a >= 0: larger looks more where the gap is large.
        beta: b >= 0: larger looks more where the student is sure.

    Raises:
        ValueError: a negative value, or both are 0.
    """

    def __init__(self, temperature: Positive, alpha: NotNegative, beta: NotNegative):
        super().__init__(temperature)
        if not (alpha >= 0 and beta >= 0 and 0 < alpha + beta < math.inf):
            raise ValueError(
                f"alpha and beta must be >= 0 and not both 0, got {alpha} and {beta}; "
                "try loss.alpha=0.2 loss.beta=0.7"
            )
        self.alpha, self.beta = float(alpha), float(beta)

    def rows(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """The divergence of each row, (N,)."""
        a, b = self.alpha, self.beta
        whole_p, whole_q = (a + b) * log_p, (a + b) * log_q
        mixed = a * log_p + b * log_q
        gap = log_p - log_q
        parts = _slope(whole_p, mixed, gap, b) - _slope(mixed, whole_q, gap, a)
        return parts.sum(1) / (a + b)


def _slope(log_a: Tensor, log_b: Tensor, gap: Tensor, weight: float) -> Tensor:
    """(a - b) / weight, where log a - log b = weight * gap; a * gap at weight 0."""
    if weight == 0:
        return log_a.exp() * gap
    larger = torch.maximum(log_a, log_b).exp()
    return gap.sign() * larger * -torch.expm1(-weight * gap.abs()) / weight
