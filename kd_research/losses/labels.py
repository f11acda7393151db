"""Losses that need no teacher: they soften the labels.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive, ShareBelow1
from kd_research.losses.logits import check_temperature


class LabelSmoothing(nn.Module):
    """Cross-entropy with (1 - s) onehot + s/C (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Args:
        smoothing: in [0, 1); the paper uses 0.1.
    """

    needs_teacher = False

    def __init__(self, smoothing: ShareBelow1):
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}; try 0.1")
        self.smoothing = float(smoothing)

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        """The cross-entropy, mean over the batch, ()."""
        return F.cross_entropy(student.logits.float(), batch.labels, label_smoothing=self.smoothing)


class VirtualTeacher(nn.Module):
    """Tf-KD's manually designed teacher (Yuan et al. 2020, arXiv:1909.11723).

    KL(softmax(u / T) || p_student), u being `correct_probability` at the label and the rest
    spread over the other classes, the student at temperature 1. As the authors have it, u is a
    probability and is softened like a logit. Their code divides the divergence by C as well
    (KLDivLoss "mean") and has a multiplier of 1, 50 or 100 by model: `lambda` here is their
    alpha * multiplier / C.

    Args:
        temperature: > 0; the authors use 20, and 40 for some models.
        correct_probability: in (1/C, 1); the paper's a, 0.99.
    """

    needs_teacher = False

    def __init__(self, temperature: Positive, correct_probability: Annotated[float, "in (0, 1)"]):
        super().__init__()
        self.temperature = check_temperature(temperature)
        if not 0 < correct_probability < 1:
            raise ValueError(
                f"correct_probability must be in (0, 1), got {correct_probability}; try 0.99"
            )
        self.correct_probability = float(correct_probability)

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        """The divergence, summed over classes, mean over the batch, ()."""
        logits = student.logits.float()
        rest = (1 - self.correct_probability) / (logits.shape[1] - 1)
        labels = batch.labels
        rows = labels if labels.ndim == 2 else F.one_hot(labels, logits.shape[1])
        virtual = rest + (self.correct_probability - rest) * rows.to(logits)
        return F.kl_div(
            logits.log_softmax(dim=1),
            (virtual / self.temperature).log_softmax(dim=1),
            reduction="batchmean",
            log_target=True,
        )
