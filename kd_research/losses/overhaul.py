"""OFD: activations before the ReLU, with the teacher's margin.

Shapes: B batch, c channels, h and w height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output
from kd_research.losses.maps import conv1x1, paired, pairs_of, require_maps


class Overhaul(nn.Module):
    """OFD (Heo et al. 2019, arXiv:1904.01866).

    The teacher's map is raised to the margin, max(F_t, m); the student's goes through a 1x1
    convolution and BatchNorm; squared differences are summed over entries, save where both the
    target is <= 0 and the student already below it. The margin of a channel is the mean of its
    negative responses, by the Gaussian that the layer's BatchNorm states. Sum over pairs, the
    n-th from the last halved n times; mean over the batch.

    The teacher stays in eval mode, unlike in the authors' code, where its BatchNorm trains on.

    Args:
        student_layers: maps before their ReLU.
        teacher_layers: maps before their ReLU, of the same heights and widths: BatchNorms, or
            modules that hold one of the map's channels (the last of those gives the margin).
    """

    def __init__(self, student_layers: Sequence[str], teacher_layers: Sequence[str]):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        self._teacher: tuple[nn.Module, ...] = ()

    def bind(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Hold the teacher, until `build` has read its BatchNorms."""
        assert teacher is not None
        self._teacher = (teacher,)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the connectors and the margins.

        Raises:
            ValueError: a layer of the teacher has no BatchNorm, or no negative responses.
        """
        pairs = require_maps(self, student, teacher, equal_size=True)
        self.connectors = nn.ModuleList(
            nn.Sequential(conv1x1(ours.shape[1], theirs.shape[1]), nn.BatchNorm2d(theirs.shape[1]))
            for ours, theirs in pairs
        )
        problems = []
        for position, (layer, (_, theirs)) in enumerate(
            zip(self.teacher_layers, pairs, strict=True)
        ):
            norm = _last_norm(self._teacher[0], layer, theirs.shape[1])
            if norm is None or not (theirs < 0).any():
                problems.append(
                    f"Overhaul needs activations before the ReLU, with a BatchNorm of their "
                    f"channels; the teacher's {layer!r} {tuple(theirs.shape)} has "
                    f"{'no such BatchNorm' if norm is None else 'no negative responses'}; try "
                    "loss.teacher_layers=[stages.-1.1] (cnn) or [stages.-1.blocks] (resnets)"
                )
            else:
                self.register_buffer(f"margin_{position}", negative_mean(norm)[:, None, None])
        if problems:
            raise ValueError("\n".join(problems))
        self._teacher = ()

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs, mean over the batch, ()."""
        total = student.logits.new_zeros(())
        pairs = pairs_of(self, student, teacher)
        for position, (connect, (ours, theirs)) in enumerate(
            zip(self.connectors, pairs, strict=True)
        ):
            target = torch.maximum(theirs, self.get_buffer(f"margin_{position}"))
            connected = connect(ours)
            counts = (connected > target) | (target > 0)
            errors = (connected - target).square() * counts
            share = 0.5 ** (len(pairs) - 1 - position)
            total = total + share * errors.flatten(1).sum(dim=1).mean()
        return total


def _last_norm(teacher: nn.Module, layer: str, channels: int) -> nn.BatchNorm2d | None:
    module = teacher
    for part in layer.split("."):
        module = (
            list(module.children())[int(part)]
            if part.startswith("-")
            else module.get_submodule(part)
        )
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    return norms[-1] if norms and norms[-1].num_features == channels else None


def negative_mean(norm: nn.BatchNorm2d) -> Tensor:
    """E[x | x < 0], (c,), x Gaussian with the BatchNorm's bias and |weight| as mean and deviation.

    Where negative responses are rarer than 1 in 1000, minus 3 deviations, as in the authors' code.
    """
    mean, deviation = norm.bias.detach().double(), norm.weight.detach().abs().double()
    deviation = deviation.clamp_min(1e-12)
    score = -mean / deviation
    below = torch.special.ndtr(score)
    density = torch.exp(-0.5 * score.square()) / math.sqrt(2 * math.pi)
    margin = mean - deviation * density / below.clamp_min(1e-12)
    return torch.where(below > 1e-3, margin, -3 * deviation).float()
