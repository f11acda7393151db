"""Mean and deviation of a split, per channel: of the training part alone, after the cuts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kd_research.data.checks import are_numbers
from kd_research.data.sources import Split

# Mean and deviation by which public checkpoints were trained, of pixels in [0, 1]: by name.
KNOWN: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
    "mnist": ([0.1307], [0.3081]),
    "half": ([0.5], [0.5]),  # [-1, 1]
    "none": ([0.0], [1.0]),
}
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
    for key, name in (("mean", mean), ("std", std)):
        if isinstance(name, str) and name not in KNOWN:
            raise ValueError(
                f"dataset.{key} must be numbers, one per channel, or one of {', '.join(KNOWN)}, "
                f"got {name!r}; try dataset.{key}=imagenet"
            )
    mean = KNOWN[mean][0] if isinstance(mean, str) else mean
    std = KNOWN[std][1] if isinstance(std, str) else std
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
    return mean, std
