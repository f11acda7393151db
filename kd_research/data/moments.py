"""Mean and deviation of a split, per channel: of the training part alone, after the cuts."""

from __future__ import annotations

import torch

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
