"""What a run says while it works: a line an epoch, on the terminal of whoever started it by hand.

`train 3/30  loss 0.41  val 95.1 %  12 s left`. The lines go through `logging` under the name
SPOKEN, which `python -m kd_research.trial` shows and a sweep's workers do not. What is made before
the trials writes them into a file, of which the sweep shows one now and then.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm

from kd_research.records.printing import SPOKEN

log = logging.getLogger(SPOKEN)
# A killed run would leave behind the semaphore that is its own lock, and Python warn of that.
tqdm.set_lock(threading.RLock())


class AboveBars(logging.Handler):
    """Writes each line to standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`; a terminal that is gone is no reason to stop."""
        try:
            tqdm.write(record.getMessage(), file=sys.stderr)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass


def speak() -> None:
    """Show what the process's runs say."""
    if not log.handlers:
        log.addHandler(AboveBars())
    log.setLevel(logging.INFO)
    log.propagate = False


class _File(logging.FileHandler):
    """Does without a file that cannot be made or written: who cannot do without a disk tells it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`; a folder may be gone, or a disk full."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Called where a line could not be written."""

    def close(self) -> None:
        """What a full disk did not take is still to be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def spoken_into(path: Path) -> Iterator[None]:
    """Write what is said meanwhile into a file alone, which is there from the first line on."""
    handler = _File(path, mode="w", encoding="utf-8", delay=True)
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # what goes to the terminal is shown as the preparation's end
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate = propagate
        log.removeHandler(handler)
        handler.close()


class Epochs:
    """Says a row of metrics.jsonl in a line, with how long the rest of the fit takes.

    Args:
        name: of the fit: "train", or "teacher".
        max_epochs: how many epochs the fit has.
    """

    def __init__(self, name: str, max_epochs: int):
        self.name, self.max_epochs = name, max_epochs
        self.started, self.num_said = time.monotonic(), 0

    def say(self, row: Mapping[str, Any]) -> None:
        """Say the row of the epoch that has just ended."""
        self.num_said += 1
        done = int(row["epoch"]) + 1
        seconds = (time.monotonic() - self.started) / self.num_said * (self.max_epochs - done)
        parts = [f"{self.name} {done}/{self.max_epochs}", *described(row), f"{left(seconds)} left"]
        log.info("  ".join(parts))


def described(row: Mapping[str, Any]) -> list[str]:
    """Loss and validation of an epoch, as far as the row has them."""
    parts = []
    if (loss := row.get("train_loss")) is not None:
        parts.append(f"loss {loss:.3g}")
    if (accuracy := row.get("val_accuracy")) is not None:
        parts.append(f"val {100 * accuracy:.1f} %")
    elif (nll := row.get("val_nll")) is not None:
        parts.append(f"val nll {nll:.3g}")
    return parts


def left(seconds: float) -> str:
    """A duration, in the largest unit of which there are two."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class Bar(TQDMProgressBar):
    """Lightning's bar of one epoch, with the loss and the accuracy of the epoch before."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=50)
        self.last: list[str] = []

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar."""
        return {name: value for name, _, value in (part.partition(" ") for part in self.last)}
