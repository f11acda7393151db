"""The sweep as rows: trials.csv, front.csv and summary.json."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from kd_research.records.measures import COSTS, METRICS, RATIOS, TEST_METRICS
from kd_research.records.printable import typed
from kd_research.records.record import RunRecord
from kd_research.report.baseline import summary as baseline_summary
from kd_research.report.sweep import Sweep, Trial, tie_break

# The columns of every table, measured or not; exports and other people's metrics follow them.
VALUE_COLUMNS = (
    *METRICS,
    "teacher_val_accuracy",
    *TEST_METRICS,
    "teacher_test_accuracy",
    *COSTS,
    *(f"teacher_{name}" for name in COSTS if name not in RATIOS),
)
PLUS_MINUS = "± is the standard deviation over the n seeds of a trial."
FIRST_COLUMNS = ("trial", "label", "seed", "state", "on_front")
LAST_COLUMNS = ("error", "directory")


def trial_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per seed: FIRST_COLUMNS, settings, metrics and costs by name, LAST_COLUMNS.

    Settings stand under their configuration key, metrics and costs under the record's names:
    VALUE_COLUMNS always, empty where nothing was measured, then what else the records have.
    """
    values = list(dict.fromkeys([*VALUE_COLUMNS, *sweep.value_names]))
    front = {trial.number for trial in sweep.front}
    given = any(trial.lender for trial in sweep.trials)  # by another sweep
    rows = []
    for trial in sweep.trials:
        for run in trial.runs:
            record = run.record
            rows.append(
                {
                    "trial": trial.number,
                    "label": trial.label,
                    "seed": record.seed if record else None,
                    "state": _state(trial, record),
                    "on_front": trial.number in front,
                    **({"start_from": trial.lender} if given else {}),
                    **{name: trial.params.get(name) for name in sweep.param_names},
                    **{name: record.value(name) if record else None for name in values},
                    "error": (record.error or trial.error) if record else None,
                    "directory": _relative(run.directory, sweep.directory),
                }
            )
    return rows


def rerun(trial: Trial) -> str:
    """The command that runs a trial again, all its seeds."""
    if len(trial.runs) == 1:
        return f"python -m kd_research.trial {typed(trial.runs[0].directory)}"
    return (
        f'for seed in {typed(trial.directory)}/seed-*; do python -m kd_research.trial "$seed"; done'
    )


def _state(trial: Trial, record: RunRecord | None) -> str:
    """Of one seed: its record's, but failed where it lacks an objective."""
    if record is None:
        return "running"
    missing = any(record.value(name) is None for name in trial.objectives)
    return "failed" if record.status == "completed" and missing else record.status


def front_rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per trial on the front: its settings, and of each value the mean over the n seeds.

    NAME_std is the standard deviation over them, NAME_ci95 the half width of the 95 % t interval.
    """
    rows = []
    for trial in sweep.front:
        row: dict[str, Any] = {"trial": trial.number, "label": trial.label, "n": len(trial.records)}
        row |= {name: trial.params.get(name) for name in sweep.param_names}
        for name in sweep.value_names:
            row[name] = trial.mean(name)
            row |= {f"{name}_std": trial.std(name), f"{name}_ci95": trial.half_width(name)}
        rows.append(row | {"directory": _relative(trial.directory, sweep.directory)})
    return rows


def to_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV; None is an empty cell."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()


def best(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Per objective the completed trial that is best in it.

    Of equals the one that is best in the others, then the lowest `val_nll`, then the latest.
    """
    found: dict[str, dict[str, Any]] = {}
    signs = [-1 if direction == "maximize" else 1 for direction in sweep.directions]
    done = [
        ([sign * (value or 0.0) for sign, value in zip(signs, point, strict=True)], trial)
        for point, trial in zip(sweep.points, sweep.trials, strict=True)
        if None not in point
    ]
    for column, name in enumerate(sweep.objectives):
        if done:
            _, trial = min(done, key=lambda one: (one[0][column], one[0], tie_break(one[1])))
            found[name] = {
                "trial": trial.number,
                "value": trial.mean(name),
                "params": dict(trial.params),
                "directory": _relative(trial.directory, sweep.directory),
            }
    return found


def summary(sweep: Sweep) -> dict[str, Any]:
    """What summary.json holds."""
    return {
        "name": sweep.name,
        "objectives": dict(sweep.objectives),
        "reference_point": dict(sweep.reference_point) or None,
        "n_trials": sweep.n_trials,
        "counts": sweep.counts,
        "hypervolume": sweep.hypervolume,
        "best": best(sweep),
        "front": [trial.number for trial in sweep.front],
        "baseline": baseline_summary(sweep),
        "teachers": sweep.teachers,
    }


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() or "."
