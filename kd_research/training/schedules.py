"""Learning rates over a fit, by name: what `conf/scheduler/` describes.

Each is a share of the optimizer's own rate (of each group's, where there are groups) as a function
of how much of the fit is done, changed after every epoch or after every optimizer step. Lengths are
epochs. Before any of them the rate may grow from near 0. Not for weights of loss terms: those are
in `losses/schedules.py`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kd_research.configuration.schedule_checks import schedule_problems, too_long


class Schedule:
    """The optimizer's rate throughout, after a warm-up; the others say how it falls.

    Args:
        per: "epoch" or "step": after which the rate changes.
        warmup: epochs, or a share of one, in which the rate grows: of n epochs or steps the i-th,
            from 0, has (i + 1) / (n + 1) of it (Goyal et al. 2017, arXiv:1706.02677, section 2.2;
            nanoGPT's numbers). With per="epoch" whole epochs.

    Raises:
        ValueError: a value that is not of its kind, all of them at once.
    """

    def __init__(self, per: str = "epoch", warmup: float = 0):
        self.per, self.warmup = per, warmup
        if problems := list(schedule_problems(vars(self))):
            raise ValueError("\n".join(problems))

    def after(self, epochs: float, progress: float) -> float:
        """The share of the rate, once it is warm.

        Args:
            epochs: how many of the fit are done, with parts of one.
            progress: how much of what follows the warm-up is done, in [0, 1].
        """
        return 1.0

    def over(self, epochs: int, steps: int) -> Callable[[int], float]:
        """The share of the rate by the number of epochs, or of steps, that are done.

        Args:
            epochs: of the fit.
            steps: of an epoch.

        Raises:
            ValueError: the warm-up is as long as the fit.
        """
        if self.warmup >= epochs:
            raise ValueError(too_long(self.warmup, epochs))
        each = steps if self.per == "step" else 1
        warm = round(self.warmup * each)

        def share(done: int) -> float:
            if done < warm:
                return (done + 1) / (warm + 1)
            progress = min((done - warm) / (epochs * each - warm), 1.0)
            return self.after(done / each, progress)

        return share

    def bound(self, optimizer: Optimizer, trainer: Trainer) -> dict[str, Any]:
        """What Lightning steps: the rates of one optimizer over a trainer's fit."""
        epochs, steps = trainer.max_epochs or 1, 1
        if self.per == "step":
            steps = int(trainer.estimated_stepping_batches) // epochs
        return {"scheduler": LambdaLR(optimizer, self.over(epochs, steps)), "interval": self.per}


class Polynomial(Schedule):
    """Down to `final` as (1 - progress)^power: power 1 is a straight line.

    Args:
        per: "epoch" or "step".
        warmup: epochs, before.
        final: the share of the rate at the end, in [0, 1].
        power: > 0.

    Raises:
        ValueError: a value that is not of its kind.
    """

    def __init__(
        self, per: str = "epoch", warmup: float = 0, final: float = 0.0, power: float = 1.0
    ):
        self.final, self.power = final, power
        super().__init__(per, warmup)

    def after(self, epochs: float, progress: float) -> float:
        """The share of the rate, once it is warm."""
        return self.final + (1 - self.final) * float((1 - progress) ** self.power)


class Cosine(Schedule):
    """Down to `final` by half a cosine (Loshchilov, Hutter 2017, arXiv:1608.03983, equation 5).

    Args:
        per: "epoch" or "step".
        warmup: epochs, before.
        final: the share of the rate at the end, in [0, 1].

    Raises:
        ValueError: a value that is not of its kind.
    """

    def __init__(self, per: str = "epoch", warmup: float = 0, final: float = 0.0):
        self.final = final
        super().__init__(per, warmup)

    def after(self, epochs: float, progress: float) -> float:
        """The share of the rate, once it is warm."""
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


class MultiStep(Schedule):
    """Times gamma at each milestone, which are epochs of the whole fit.

    Args:
        milestones: epochs, increasing.
        gamma: > 0.
        per: "epoch" or "step"; the same, unless the milestones have fractions.
        warmup: epochs, before.

    Raises:
        ValueError: a value that is not of its kind.
    """

    def __init__(
        self,
        milestones: Sequence[float],
        gamma: float = 0.1,
        per: str = "epoch",
        warmup: float = 0,
    ):
        self.milestones, self.gamma = milestones, gamma
        super().__init__(per, warmup)

    def after(self, epochs: float, progress: float) -> float:
        """The share of the rate, once it is warm."""
        return float(self.gamma ** bisect.bisect_right(list(self.milestones), epochs))
