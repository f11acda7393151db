"""What a person sees of a running sweep: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from kd_research.records.printable import printable
from kd_research.records.record import METRICS_NAME, read_text

SHOWN = 8  # finished trials in the live table


class Progress:
    """Tells of trials as they end, and in a terminal of those that run.

    Args:
        objectives: name -> maximize or minimize.
        total: trials there shall be.
        done: trials there were before.
    """

    def __init__(self, objectives: Mapping[str, str], total: int, done: int):
        self.objectives, self.total, self.done = objectives, total, done
        self.start, self.before = time.monotonic(), done
        self.console = Console(soft_wrap=True)
        self.rows: list[tuple[str, ...]] = []
        self.running: Sequence[Path] = ()
        self.live = (
            Live(console=self.console, get_renderable=self._table, refresh_per_second=2)
            if self.console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live is not None:
            self.live.stop()

    def note(self, text: str) -> None:
        """One line that stays."""
        self._print(printable(text))

    def _print(self, text: str) -> None:
        if self.live is None:
            print(text, flush=True)
        else:
            self.console.print(text, highlight=False, markup=False)

    def show(self, done: int, running: Sequence[Path]) -> None:
        """What runs now, and how many trials are finished, by any sweeper."""
        self.done, self.running = done, running

    def told(
        self,
        number: int,
        values: Sequence[float] | None,
        reason: str | None,
        done: int,
        best: float | None,
    ) -> None:
        """A trial has ended: which of how many, what it gave, the best so far, the time left."""
        self.done = done
        name = next(iter(self.objectives))
        if values is not None and reason is None:
            numbers = [number_text(value) for value in values]
            cells = ("done", *numbers)
            shown = [f"{key} {text}" for key, text in zip(self.objectives, numbers, strict=True)]
            text = "  ".join(shown)
        else:
            state = "failed" if values is None else "pruned"
            text = f"{state}: {printable((reason or ' ').splitlines()[0])}"
            cells = (text[:60], *["-"] * len(self.objectives))
        self.rows = [*self.rows, (str(number), *cells)][-SHOWN:]
        if self.live is None or values is None or reason is not None:
            self._print(
                f"trial {done} of {self.total}  #{number:<4} {text}"
                f"  | best {name} {number_text(best)}  | {self._left()} left"
            )

    def _left(self) -> str:
        if self.done == self.before:
            return "unknown time"
        rate = (time.monotonic() - self.start) / (self.done - self.before)
        minutes, seconds = divmod(round(rate * (self.total - self.done)), 60)
        return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"

    def _table(self) -> Table:
        table = Table("trial", "state", *self.objectives, title_justify="left")
        table.title = f"{self.done} of {self.total} trials, {self._left()} left"
        for row in self.rows:
            table.add_row(*row)
        for directory in self.running:
            last = _last_row(directory)
            epoch = f"epoch {last['epoch']}" if last.get("epoch", -1) >= 0 else "starts"
            cells = [number_text(last.get(name)) for name in self.objectives]
            trial = directory.as_posix().rpartition("/trials/")[2].lstrip("0")
            table.add_row(trial or "0", epoch, *cells, style="dim")
        return table


def _last_row(directory: Path) -> dict[str, Any]:
    """Of a running run's metrics.jsonl; its last line may be half written."""
    try:
        lines = read_text(directory / METRICS_NAME).splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        return row
    return {}


def number_text(value: float | None) -> str:
    """A count in full, anything else to four digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"
