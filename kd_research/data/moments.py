"""Mean and deviation of a split, per channel: of the training part alone, after the cuts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kd_research.data.checks import are_numbers
from kd_research.data.sources import Split

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


def check_moments(mean: Sequence[float], std: Sequence[float], num: int) -> None:
    """Let only numbers through that an image's `num` channels can be normalised by.

    Raises:
        ValueError: there are others.
    """
    fits = {
        "mean": are_numbers(mean, 1, num),
        "std": are_numbers(std, 1, num) and all(value > 0 for value in std),
    }
    for name, given, example in (("mean", mean, "0.5"), ("std", std, "0.25")):
        if not fits[name]:
            raise ValueError(
                f"dataset.{name} must be {num} numbers{' above 0' * (name == 'std')}, one per "
                f"channel, or a list of a single one for all, got {given}; "
                f"try dataset.{name}=[{','.join([example] * num)}]"
            )
