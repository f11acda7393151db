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

from kd_research.data.checks import is_number

EVERY = ("epoch", "step")


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
        if problems := self.problems():
            raise ValueError("\n".join(problems))

    def problems(self) -> list[str]:
        """What is wrong with the settings, a line a problem."""
        found = []
        if self.per not in EVERY:
            found.append(
                f"scheduler.per must be epoch or step, got {self.per!r}; try scheduler.per=epoch"
            )
        if not is_number(self.warmup) or self.warmup < 0:
            found.append(
                f"scheduler.warmup must be a number of epochs >= 0, got {self.warmup!r}; "
                "try scheduler.warmup=0"
            )
        elif self.per == "epoch" and self.warmup != int(self.warmup):
            found.append(
                f"scheduler.warmup={self.warmup} epochs end within an epoch; "
                "type scheduler.per=step too, or a whole number"
            )
        return found

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
            raise ValueError(
                f"scheduler.warmup={self.warmup:g} epochs leave none of the {epochs} of "
                f"trainer.max_epochs; try scheduler.warmup={epochs // 10}"
            )
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

    def problems(self) -> list[str]:
        """What is wrong with the settings, a line a problem."""
        found = [*super().problems(), *_final_problems(self.final)]
        if not is_number(self.power) or self.power <= 0:
            found.append(f"scheduler.power must be > 0, got {self.power!r}; try scheduler.power=1")
        return found

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

    def problems(self) -> list[str]:
        """What is wrong with the settings, a line a problem."""
        return [*super().problems(), *_final_problems(self.final)]

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

    def problems(self) -> list[str]:
        """What is wrong with the settings, a line a problem."""
        found, given = super().problems(), self.milestones
        rising = not isinstance(given, str | int | float) and all(map(is_number, given))
        if not rising or list(given) != sorted(given):
            found.append(
                f"scheduler.milestones must be a list of epochs, increasing, got {given!r}; "
                "try scheduler.milestones=[150,180,210]"
            )
        if not is_number(self.gamma) or self.gamma <= 0:
            found.append(
                f"scheduler.gamma must be > 0, got {self.gamma!r}; try scheduler.gamma=0.1"
            )
        return found

    def after(self, epochs: float, progress: float) -> float:
        """The share of the rate, once it is warm."""
        return float(self.gamma ** bisect.bisect_right(list(self.milestones), epochs))


def _final_problems(final: float) -> list[str]:
    if is_number(final) and 0 <= final <= 1:
        return []
    return [
        f"scheduler.final must be a share of the rate in [0, 1], got {final!r}; "
        "try scheduler.final=0"
    ]
