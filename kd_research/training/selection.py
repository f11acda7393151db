"""Which epoch's student is kept: by validation, with a rule for equals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from kd_research.training.callbacks import PerEpoch

SELECTION = ("val_accuracy", "max")  # the metric that chooses the epoch, and which way
TEXT_SELECTION = ("val_nll", "min")  # where every example is a text whose tokens are all labelled
TIE_BREAK = "val_nll"  # lower is better; then the later epoch


@dataclass(frozen=True)
class Selection:
    """Which epoch's student was kept, and what the last one had.

    Attributes:
        metric: what it was chosen by, on the validation split: the highest val_accuracy, for
            text whose tokens are labelled the lowest val_nll; of equals the one with the lowest
            val_nll, of these the latest.
        epoch: the kept one, from 0; -1 where nothing was trained.
        value: its metric.
        last_epoch: the last one, from 0.
        last_value: its metric.
        ties: how many other epochs have the same metric as the kept one.
    """

    metric: str
    epoch: int
    value: float
    last_epoch: int
    last_value: float
    ties: int

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return asdict(self)


class KeepSelected(PerEpoch, ModelCheckpoint):
    """Lightning's, with a rule for epochs of equal value; at a step it saves nothing.

    A few hundred validation examples give many equal accuracies, whose first epoch is far from
    the best student.

    Args:
        directory: for the checkpoint.
        metric: by which the epoch is chosen.
        mode: "max" or "min".
    """

    def __init__(self, directory: Path, metric: str, mode: str):
        super().__init__(
            dirpath=directory,
            filename="selected",
            monitor=metric,
            mode=mode,
            save_top_k=1,
            enable_version_counter=False,
        )
        self.ties = 0
        self._best: tuple[float, float] | None = None  # its value, higher is better; NLL

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether this epoch is better than the kept one; Lightning asks once an epoch."""
        if current is None:
            return False
        value = float(current) if self.mode == "max" else -float(current)
        nll = float(trainer.callback_metrics[TIE_BREAK])
        best = self._best
        self.ties = self.ties + 1 if best and value == best[0] else self.ties
        better = best is None or value > best[0] or (value == best[0] and nll <= best[1])
        better = trainer.strategy.reduce_boolean_decision(better)
        if better:
            self.ties = 0 if best is None or value > best[0] else self.ties
            self._best = value, nll
        return better

    def state_dict(self) -> dict[str, Any]:
        """For a fit that goes on after it was cut off."""
        return {**super().state_dict(), "best": self._best, "ties": self.ties}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The epochs before the cut."""
        super().load_state_dict(state_dict)
        self._best, self.ties = state_dict["best"], state_dict["ties"]
