"""Follows the runs of a sweep by their metrics.jsonl, for the rule of `early_stopping.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kd_research.report.sweep import Run
from kd_research.sweep.early_stopping import BEFORE, Finished, Rule, Stop, curves_of
from kd_research.sweep.folders import Folders


class Follower:
    """Says which runs to stop.

    Args:
        folders: of the sweep's trials.
        objectives: name -> maximize or minimize.
        confidence: of the rule; None stops nothing.
    """

    def __init__(self, folders: Folders, objectives: Mapping[str, str], confidence: float | None):
        self.folders = folders
        self.rule = None if confidence is None else Rule(objectives, confidence)
        self._finished: dict[int, Finished] = {}
        self._read: dict[Path, int] = {}  # rows of a run when it was judged last

    def stops(self, running: Iterable[Path], completed: Iterable[Any]) -> dict[Path, Stop]:
        """The runs to stop now, and why.

        Args:
            running: run folders.
            completed: the study's trials that have values; stopped ones teach nothing.
        """
        if self.rule is None:
            return {}
        new = [
            self._finish(trial)
            for trial in completed
            if trial.number not in self._finished and "pruned" not in trial.user_attrs
        ]
        if new:
            self.rule.learn(list(self._finished.values()))
        found = {}
        for directory in running:
            rows = Run(directory, None).curves()
            if not new and self._read.get(directory) == len(rows):
                continue
            self._read[directory] = len(rows)
            costs = {name: row[name] for row in rows[:1] for name in BEFORE if name in row}
            stop = self.rule.judge(curves_of(rows), costs)
            if stop is not None:
                found[directory] = stop
        return found

    def _finish(self, trial: Any) -> Finished:
        assert self.rule is not None
        runs = self.folders.runs(trial.number)
        values = dict(zip(self.rule.objectives, trial.values, strict=True))
        feasible = all(excess <= 0 for excess in trial.constraints.values())
        curves = [curves_of(Run(run, None).curves()) for run in runs]
        found = self._finished[trial.number] = Finished(trial.number, curves, values, feasible)
        return found
