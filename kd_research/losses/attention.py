"""Losses that compare maps by a statistic of them, with no regressor, or a 1x1 one at most.

Shapes: B batch, c channels, h and w height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, Positive
from kd_research.losses.logits import check_temperature
from kd_research.losses.maps import (
    adapter,
    conv1x1,
    paired,
    pairs_of,
    require_maps,
    to_smaller,
)


class AttentionTransfer(nn.Module):
    """AT (Zagoruyko, Komodakis 2017, arXiv:1612.03928 with p = 2).

    The sum over pairs of the mean squared difference of Q = v / ||v||, v the mean over channels
    of the squared map. Maps of different sizes are pooled to the smaller. The paper has the norm
    of the difference, and beta / 2; the mean of squares with weight 1000 is the form of the
    authors' and of every later code.

    Args:
        student_layers: maps.
        teacher_layers: maps, as many.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)

    def build(self, student: Output, teacher: Output) -> None:
        """Check that there are maps, of more than one position."""
        require_maps(self, student, teacher, positions=2)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs of means over batch and positions, ()."""
        total = student.logits.new_zeros(())
        for ours, theirs in pairs_of(self, student, teacher):
            ours, theirs = to_smaller(ours, theirs)
            total = total + F.mse_loss(_attention(ours), _attention(theirs))
        return total


def _attention(maps: Tensor) -> Tensor:
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1)


class NeuronSelectivity(nn.Module):
    """NST (Huang, Wang 2017, arXiv:1707.01219 polynomial kernel of degree 2).

    The sum over pairs of the squared maximum mean discrepancy, with kernel (a . b)^2, between the
    student's and the teacher's channels, each an L2-normalised map. Maps of different sizes are
    pooled to the smaller.

    Args:
        student_layers: maps.
        teacher_layers: maps, as many.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)

    def build(self, student: Output, teacher: Output) -> None:
        """Check that there are maps, of more than one position."""
        require_maps(self, student, teacher, positions=2)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs of means over batch and pairs of channels, ()."""
        total = student.logits.new_zeros(())
        for ours, theirs in pairs_of(self, student, teacher):
            ours, theirs = (
                F.normalize(maps.flatten(2), dim=2) for maps in to_smaller(ours, theirs)
            )
            total = (
                total + _kernel(ours, ours) + _kernel(theirs, theirs) - 2 * _kernel(ours, theirs)
            )
        return total


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    return (left @ right.transpose(1, 2)).square().mean()


class FlowOfSolution(nn.Module):
    """FSP (Yim et al. 2017, CVPR, "A Gift from Knowledge Distillation").

    For each two consecutive layers i, j: G = F_i F_j^T / (h w), (c_i, c_j); the mean squared
    difference of the student's and the teacher's G, summed over the pairs of layers. The larger
    map of two is max-pooled to the smaller. The paper's two nets have equal channels; where they
    differ, a 1x1 convolution brings the student's to the teacher's. It stands alone in a stage
    before, and the labels alone follow: see conf/loss/fsp.yaml.

    Args:
        student_layers: at least two maps.
        teacher_layers: maps, as many.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        if len(self.student_layers) < 2:
            raise ValueError(
                f"FlowOfSolution compares consecutive layers, got {[*student_layers]} alone; "
                "try loss.student_layers=[stages.0,stages.-1]"
            )

    def build(self, student: Output, teacher: Output) -> None:
        """Make the adapters."""
        pairs = require_maps(self, student, teacher)
        self.adapters = nn.ModuleList(adapter(ours, theirs) for ours, theirs in pairs)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over consecutive layers of means over batch and channels squared, ()."""
        pairs = pairs_of(self, student, teacher)
        adapted = [adapt(ours) for adapt, (ours, _) in zip(self.adapters, pairs, strict=True)]
        total = student.logits.new_zeros(())
        for (ours, ours_next), (theirs, theirs_next) in zip(
            pairwise(adapted), pairwise(theirs for _, theirs in pairs), strict=True
        ):
            total = total + F.mse_loss(_flow(ours, ours_next), _flow(theirs, theirs_next))
        return total


def _flow(first: Tensor, second: Tensor) -> Tensor:
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = (F.adaptive_max_pool2d(maps, size).flatten(2) for maps in (first, second))
    return first @ second.transpose(1, 2) / first.shape[2]


class ChannelWise(nn.Module):
    """CWD (Shu et al. 2021, arXiv:2011.13256).

    T^2 / c times the sum over channels of KL(teacher || student) between softmaxes over the
    positions of each channel, mean over the batch, summed over pairs. Where the channels differ,
    a 1x1 convolution brings the student's to the teacher's, as in the paper.

    Args:
        student_layers: maps.
        teacher_layers: maps of the same heights and widths, as many.
        temperature: > 0; the paper uses 4 for features.
    """

    def __init__(
        self, student_layers: Sequence[str], teacher_layers: Sequence[str], temperature: Positive
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        self.temperature = check_temperature(temperature)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the adapters."""
        pairs = require_maps(self, student, teacher, positions=2, equal_size=True)
        self.adapters = nn.ModuleList(adapter(ours, theirs) for ours, theirs in pairs)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs of means over batch and channels, ()."""
        total = student.logits.new_zeros(())
        pairs = pairs_of(self, student, teacher)
        for adapt, (ours, theirs) in zip(self.adapters, pairs, strict=True):
            log_student, log_teacher = (
                (maps.flatten(2) / self.temperature).log_softmax(dim=2)
                for maps in (adapt(ours), theirs)
            )
            divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
            total = total + divergence.sum(dim=2).mean()
        return self.temperature**2 * total


class InterChannel(nn.Module):
    """ICKD-C (Liu et al. 2021, ICCV, "Exploring Inter-Channel Correlation").

    The Gram matrix of an example's channels, its rows L2-normalised; the squared difference of
    student's and teacher's, summed over the entries and divided by c, mean over the batch and
    summed over pairs. The student's map goes through a 1x1 convolution and BatchNorm first, as in
    the authors' code.

    Args:
        student_layers: maps, in the paper the last.
        teacher_layers: maps, as many.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the embeddings of the student's maps."""
        self.embeddings = nn.ModuleList(
            nn.Sequential(conv1x1(ours.shape[1], theirs.shape[1]), nn.BatchNorm2d(theirs.shape[1]))
            for ours, theirs in require_maps(self, student, teacher, positions=2)
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs, mean over the batch, ()."""
        total = student.logits.new_zeros(())
        pairs = pairs_of(self, student, teacher)
        for embed, (ours, theirs) in zip(self.embeddings, pairs, strict=True):
            difference = _channel_gram(embed(ours)) - _channel_gram(theirs)
            total = total + difference.square().sum(dim=2).mean()
        return total


def _channel_gram(maps: Tensor) -> Tensor:
    channels = maps.flatten(2)
    return F.normalize(torch.bmm(channels, channels.transpose(1, 2)), dim=2)
