"""Mean and deviation of a split, per channel: of the training part alone, after the cuts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kd_research.configuration.moment_checks import KNOWN, moment_problems
from kd_research.data.sources import Split

Moments = Sequence[float] | str | None  # a name of these, or as measured
CHUNK = 4096  # examples taken out at a time


def moments(split: Split) -> tuple[list[float], list[float]]:
    """Per channel the mean and the standard deviation; bytes stand for pixels in [0, 1].

    Args:
        split: inputs (N, C, ...), no text.
    """
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for start in range(0, len(split), CHUNK):
        inputs = split.take(torch.arange(start, min(start + CHUNK, len(split)))).inputs
        assert isinstance(inputs, torch.Tensor)
        values = inputs.double() / (255 if inputs.dtype == torch.uint8 else 1)
        values = values.transpose(0, 1).flatten(1)
        total, squares = total + values.sum(1), squares + values.square().sum(1)
        count += values.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    return mean.tolist(), deviation.tolist()


def check_moments(
    mean: Sequence[float] | str, std: Sequence[float] | str, num: int
) -> tuple[Sequence[float], Sequence[float]]:
    """The numbers that an image's `num` channels are normalised by, those of a name looked up.

    Raises:
        ValueError: they cannot be, or there is no such name.
    """
    if problems := list(moment_problems(mean, std, num)):
        raise ValueError("\n".join(problems))
    mean = KNOWN[mean][0] if isinstance(mean, str) else mean
    std = KNOWN[std][1] if isinstance(std, str) else std
    return mean, std
