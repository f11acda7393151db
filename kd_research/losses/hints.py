"""Losses that regress the teacher's activations from the student's.

Shapes: B batch, c channels, h and w height and width, L tokens, D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, ShareBelow1
from kd_research.losses.maps import (
    adapter,
    conv1x1,
    paired,
    pairs_of,
    require_maps,
    to_smaller,
    token_mask,
)


class Hint(nn.Module):
    """FitNets (Romero et al. 2015, arXiv:1412.6550, equation 3).

    The mean squared difference of the teacher's hint and the regressed guided layer, summed over
    pairs. The regressor is a convolution that meets the teacher's size, BatchNorm and ReLU, as in
    the CRD benchmark; a linear map for vectors and tokens. It is a term beside the labels, not
    the paper's first stage of two, and the mean over entries, not half their sum.

    Args:
        student_layers: the guided layers: maps, tokens or vectors.
        teacher_layers: the hints, of the same kind, as many.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the regressors."""
        regressors, problems = [], []
        names = zip(self.student_layers, self.teacher_layers, strict=True)
        for (ours, theirs), layers in zip(pairs_of(self, student, teacher), names, strict=True):
            regressor = _regressor(ours, theirs)
            if regressor is None:
                problems.append(
                    f"Hint finds no regressor from the student's {layers[0]!r} "
                    f"{tuple(ours.shape)} to the teacher's {layers[1]!r} {tuple(theirs.shape)}: "
                    "maps must be equal in size, or one twice the other, or the student's the "
                    "larger; choose other loss.student_layers"
                )
            else:
                regressors.append(regressor)
        if problems:
            raise ValueError("\n".join(problems))
        self.regressors = nn.ModuleList(regressors)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs of means over all entries, of tokens those that count, ()."""
        total = student.logits.new_zeros(())
        pairs = pairs_of(self, student, teacher)
        for regress, (ours, theirs) in zip(self.regressors, pairs, strict=True):
            mask, guided = token_mask(theirs, batch), regress(ours)
            if mask is not None:
                guided, theirs = guided[mask], theirs[mask]
            total = total + F.mse_loss(guided, theirs)
        return total


def _regressor(student: Tensor, teacher: Tensor) -> nn.Module | None:
    """From the student's activation to the teacher's shape; None where there is no simple one."""
    if student.ndim in (2, 3) and student.shape[:-1] == teacher.shape[:-1]:
        return nn.Linear(student.shape[-1], teacher.shape[-1])
    if student.ndim != 4 or teacher.ndim != 4:
        return None
    (c_in, *ours), (c_out, *theirs) = student.shape[1:], teacher.shape[1:]
    convolution: nn.Module
    if ours == theirs:
        convolution = nn.Conv2d(c_in, c_out, 1)
    elif ours == [2 * size for size in theirs]:
        convolution = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
    elif theirs == [2 * size for size in ours]:
        convolution = nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)
    elif all(mine >= other for mine, other in zip(ours, theirs, strict=True)):
        kernel = (1 + ours[0] - theirs[0], 1 + ours[1] - theirs[1])
        convolution = nn.Conv2d(c_in, c_out, kernel)
    else:
        return None
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out), nn.ReLU())


class VariationalInformation(nn.Module):
    """VID (Ahn et al. 2019, arXiv:1904.05835).

    Half of (mean(F_s) - F_t)^2 / variance + log(variance), mean over all entries, summed over
    pairs: a Gaussian whose mean is regressed by three 1x1 convolutions and whose variance is
    learnt for each channel. Not 0 at equality. Maps of different sizes are pooled to the smaller.

    Args:
        student_layers: maps.
        teacher_layers: maps, as many.
        initial_variance: > `eps`; the authors' 5.
        eps: the least variance.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        initial_variance: float = 5.0,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        self.initial_variance, self.eps = float(initial_variance), float(eps)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the regressors and the variances."""
        regressors, scales = [], []
        for ours, theirs in require_maps(self, student, teacher):
            width = theirs.shape[1]
            regressors.append(
                nn.Sequential(
                    conv1x1(ours.shape[1], width),
                    nn.ReLU(),
                    conv1x1(width, width),
                    nn.ReLU(),
                    conv1x1(width, width),
                )
            )
            start = math.log(math.expm1(self.initial_variance - self.eps))  # softplus^-1
            scales.append(nn.Parameter(torch.full((width, 1, 1), start)))
        self.regressors, self.scales = nn.ModuleList(regressors), nn.ParameterList(scales)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs of means over all entries, ()."""
        total = student.logits.new_zeros(())
        pairs = pairs_of(self, student, teacher)
        for regress, scale, (ours, theirs) in zip(self.regressors, self.scales, pairs, strict=True):
            ours, theirs = to_smaller(ours, theirs)
            variance = F.softplus(scale) + self.eps
            error = (regress(ours) - theirs).square() / variance + variance.log()
            total = total + 0.5 * error.mean()
        return total


class MaskedGeneration(nn.Module):
    """MGD (Yang et al. 2022, arXiv:2205.01529).

    The student's map, at a random share of its positions set to 0, must generate the teacher's
    whole map through two 3x3 convolutions with a ReLU between: the sum of squares over all
    entries, mean over the batch, summed over pairs. A 1x1 convolution first where the channels
    differ.

    Args:
        student_layers: maps.
        teacher_layers: maps of the same heights and widths, as many.
        masked: share of the positions that are hidden, in [0, 1); the paper's lambda, 0.5.
    """

    def __init__(
        self, student_layers: Sequence[str], teacher_layers: Sequence[str], masked: ShareBelow1
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        if not 0 <= masked < 1:
            raise ValueError(f"masked must be in [0, 1), got {masked}; try 0.5")
        self.masked = float(masked)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the adapters and the generators."""
        pairs = require_maps(self, student, teacher, equal_size=True)
        self.adapters = nn.ModuleList(adapter(ours, theirs) for ours, theirs in pairs)
        self.generators = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for width in (theirs.shape[1] for _, theirs in pairs)
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs, mean over the batch, ()."""
        total = student.logits.new_zeros(())
        pairs = pairs_of(self, student, teacher)
        for adapt, generate, (ours, theirs) in zip(
            self.adapters, self.generators, pairs, strict=True
        ):
            kept = torch.rand_like(ours[:, :1]) >= self.masked
            generated = generate(adapt(ours) * kept)
            total = total + (generated - theirs).square().flatten(1).sum(dim=1).mean()
        return total
