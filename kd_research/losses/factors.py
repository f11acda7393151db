"""Losses that meet the teacher's features through trained parts that re-code or weigh them.

Shapes: B batch, c channels, h and w height and width, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, NotNegative, Output, Positive
from kd_research.losses.maps import (
    VectorNorm,
    conv1x1,
    paired,
    pairs_of,
    pooled,
    require_maps,
    to_smaller,
)


class FactorTransfer(nn.Module):
    """FT (Kim, Park, Kwak 2018, arXiv:1802.04977).

    A paraphraser codes the teacher's map by fewer channels and decodes it again; a translator
    codes the student's to as many. In a stage before, the paraphraser alone learns, by its mean
    squared error. Then it is fixed, and the loss is the mean absolute difference of the two
    factors n(Z) = normalised(mean over channels of Z^2).

    Args:
        student_layers: one map.
        teacher_layers: one map.
        rate: channels of the factors over the teacher's; the paper's k, 0.5.
    """

    def __init__(
        self,
        student_layers: Sequence[str],
        teacher_layers: Sequence[str],
        rate: Positive,
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.rate = float(rate)
        self.set_stage(None)

    def set_stage(self, stage: str | None) -> None:
        """In any stage before the training itself the paraphraser learns."""
        self._paraphrases = stage is not None

    def build(self, student: Output, teacher: Output) -> None:
        """Make paraphraser and translator."""
        ((ours, theirs),) = require_maps(self, student, teacher, positions=2)
        channels = theirs.shape[1]
        factors = max(1, round(self.rate * channels))
        self.encoder = nn.Sequential(_coder(channels, channels), _coder(channels, factors))
        self.decoder = nn.Sequential(_coder(factors, factors), _coder(factors, channels))
        self.translator = nn.Sequential(
            _coder(ours.shape[1], ours.shape[1]), _coder(ours.shape[1], factors)
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over entries of the factors' difference, or of the paraphraser's error, ()."""
        ((ours, theirs),) = pairs_of(self, student, teacher)
        if self._paraphrases:
            return F.mse_loss(self.decoder(self.encoder(theirs)), theirs)
        with torch.no_grad():
            code = self.encoder(theirs)
        translated, told = to_smaller(self.translator(ours), code)
        return (_factor(translated) - _factor(told)).abs().mean()


def _factor(maps: Tensor) -> Tensor:
    return F.normalize(maps.square().mean(dim=1).flatten(1), dim=1)


def _coder(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.1),
    )


class ActivationBoundaries(nn.Module):
    """AB (Heo et al. 2019, arXiv:1811.03233).

    Before the ReLU, the student's map, through a 1x1 convolution and BatchNorm, is pushed over
    `margin` where the teacher's is above 0, and below -`margin` where it is not: squared hinges,
    summed over entries, the n-th layer from the last halved n times, times 3 / 1000; mean over
    the batch. It stands alone in a stage before, and the labels alone follow: see
    conf/loss/ab.yaml.

    Args:
        student_layers: maps before their ReLU.
        teacher_layers: maps before their ReLU, of the same heights and widths.
        margin: the paper's 1.
    """

    def __init__(
        self, student_layers: Sequence[str], teacher_layers: Sequence[str], margin: NotNegative
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        self.margin = float(margin)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the connectors.

        Raises:
            ValueError: a layer of the teacher has no negative responses.
        """
        pairs = require_maps(self, student, teacher, equal_size=True)
        problems = [
            f"ActivationBoundaries needs activations before the ReLU; the teacher's {layer!r} "
            f"{tuple(theirs.shape)} has no negative responses; try "
            "loss.teacher_layers=[stages.-1.1] (cnn) or [stages.-1.blocks] (resnets)"
            for layer, (_, theirs) in zip(self.teacher_layers, pairs, strict=True)
            if not (theirs < 0).any()
        ]
        if problems:
            raise ValueError("\n".join(problems))
        self.connectors = nn.ModuleList(
            nn.Sequential(conv1x1(ours.shape[1], theirs.shape[1]), nn.BatchNorm2d(theirs.shape[1]))
            for ours, theirs in pairs
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over layers, mean over the batch, ()."""
        total = torch.zeros((), device=student.logits.device)
        pairs = pairs_of(self, student, teacher)
        for position, (connect, (ours, theirs)) in enumerate(
            zip(self.connectors, pairs, strict=True)
        ):
            sign = (theirs > 0).to(ours.dtype) * 2 - 1
            hinges = (self.margin - sign * connect(ours)).clamp_min(0).square()
            share = 0.5 ** (len(pairs) - 1 - position)
            total = total + 0.003 * share * hinges.flatten(1).sum(dim=1).mean()
        return total


class PrimeAware(nn.Module):
    """PAD (Zhang et al. 2020, ECCV, "Prime-Aware Adaptive Distillation").

    The squared difference of the teacher's pooled feature and the student's, linearly mapped,
    over a variance that a linear map and BatchNorm read off the student's feature, plus the
    variance's logarithm: examples and features that the student finds uncertain weigh less.
    The mean over entries, where torchdistill has the sum over features.

    In a stage before, the plain mean squared difference of the mapped feature is the loss.

    Args:
        student_layers: one layer, pooled to a vector.
        teacher_layers: one layer, pooled to a vector.
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers, most=1)
        self.set_stage(None)

    def set_stage(self, stage: str | None) -> None:
        """In any stage before the training itself there is no variance yet."""
        self._plain = stage is not None

    def build(self, student: Output, teacher: Output) -> None:
        """Make the map and the branch of the variance."""
        ((ours, theirs),) = [map(pooled, pair) for pair in pairs_of(self, student, teacher)]
        width, wanted = ours.shape[1], theirs.shape[1]
        self.regressor = nn.Linear(width, wanted)
        self.variance = nn.Sequential(nn.Linear(width, wanted), VectorNorm(wanted))

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over batch and features, ()."""
        ((ours, theirs),) = [map(pooled, pair) for pair in pairs_of(self, student, teacher)]
        squares: Tensor = (self.regressor(ours) - theirs).square()
        if self._plain:
            return squares.mean()
        log_variance: Tensor = self.variance(ours)
        weighed: Tensor = squares / (log_variance.exp() + 1e-6) + log_variance
        return weighed.mean()
