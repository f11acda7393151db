"""Counts from the predictions that a run leaves: errors, of all test examples or of a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from kd_research.records.record import PREDICTIONS_NAME
from kd_research.report.sweep import Run, Sweep, Trial


def measured(run: Run, metric: str) -> float | None:
    """A record's value, or a count of wrong examples of test from the run's predictions."""
    record = run.record
    if record is None or record.status != "completed":
        return None
    found = record.value(metric)
    path = run.directory / PREDICTIONS_NAME
    who = "teacher" if metric.startswith("teacher_") else "student"
    name, _, group = metric.removeprefix("teacher_").partition("_on_")
    counted = name == "test_errors" and (group.isdigit() or not group)
    if found is not None or not counted or not path.is_file():
        return found
    content = _predictions(path)
    if f"test_{who}" not in content:
        return None
    labels = content["test_labels"]
    wrong = content[f"test_{who}"] != labels
    return float(wrong[labels == int(group)].sum() if group else wrong.sum())


def values(trial: Trial | None, metric: str) -> tuple[float, ...]:
    """Of every seed that has it."""
    found = [measured(run, metric) for run in trial.runs] if trial else []
    return tuple(value for value in found if value is not None)


def split_sizes(sweep: Sweep) -> dict[str, int]:
    """Split -> how many examples its accuracies are of; a file may hold fewer than published."""
    for run in (run for trial in sweep.trials for run in trial.runs):
        path = run.directory / PREDICTIONS_NAME
        content = _predictions(path) if path.is_file() else {}
        names = [name for name in ("val", "test") if f"{name}_labels" in content]
        if names:
            return {name: len(content[f"{name}_labels"]) for name in names}
    return {}


def _predictions(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a run's predictions; none of a damaged file, which the report names."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return dict(content)
    except (OSError, ValueError, EOFError, TypeError, BadZipFile):
        return {}
