"""Weights that change over the epochs: a term's `weight`, or `ce_weight`, in YAML.

Each is called with the epoch, counted from 0, and the number of epochs, and gives the weight for
that epoch. `peak` is its largest value: a term whose peak is 0 does not exist.

Lengths are written as the papers have them, "20 epochs of 240": with another number of epochs
they keep their share of the training; `of: null` keeps the epochs themselves.
"""

from __future__ import annotations

import math


def _length(epochs: float, of: float | None, max_epochs: int) -> float:
    return epochs if of is None else epochs * max_epochs / of


class Warmup:
    """From weight/length up to the weight, linearly: min((epoch + 1) / length, 1) * weight.

    Args:
        weight: the full weight.
        epochs: how long; 0 is no warm-up.
        of: the number of epochs that `epochs` is counted in; None: those of this run.
    """

    def __init__(self, weight: float, epochs: float, of: float | None = None):
        self.peak, self.epochs, self.of = float(weight), epochs, of

    def __call__(self, epoch: int, max_epochs: int) -> float:
        """The weight for this epoch."""
        length = _length(self.epochs, self.of, max_epochs)
        return self.peak * min((epoch + 1) / length, 1.0) if length > 0 else self.peak


class CosineDecay:
    """The weight until `start`, then down to 0 by half a cosine at the end (WKD, Lv et al. 2024).

    Args:
        weight: the full weight.
        start: the epoch from which it falls.
        of: the number of epochs that `start` is counted in; None: those of this run.
    """

    def __init__(self, weight: float, start: float, of: float | None = None):
        self.peak, self.start, self.of = float(weight), start, of

    def __call__(self, epoch: int, max_epochs: int) -> float:
        """The weight for this epoch."""
        start = _length(self.start, self.of, max_epochs)
        if epoch <= start:
            return self.peak
        return self.peak * 0.5 * (1 + math.cos(math.pi * (epoch - start) / (max_epochs - start)))
