"""What breaks a constraint of the sweep is not on its front."""

from __future__ import annotations

from pathlib import Path

from kd_research.configuration.constraints import parse
from kd_research.records.record import RunRecord
from kd_research.report.sweep import Run, Sweep, Trial

OBJECTIVES = {"val_accuracy": "maximize", "num_params": "minimize"}


def record(accuracy: float, size: int, latency: float | None) -> RunRecord:
    costs = {"num_params": size, "latency_ms": latency}
    return RunRecord("completed", {}, 0, metrics={"val_accuracy": accuracy}, costs=costs)


def test_the_front_has_feasible_trials_alone(tmp_path: Path) -> None:
    made = [record(0.9, 10, 9.0), record(0.8, 10, 1.0), record(0.7, 5, None)]
    trials = tuple(
        Trial(number, tmp_path, {}, (Run(tmp_path, one),), 1, tuple(OBJECTIVES))
        for number, one in enumerate(made)
    )
    limits, problems = parse(["latency_ms <= 5"])
    free = Sweep(tmp_path, "s", OBJECTIVES, trials)
    bound = Sweep(tmp_path, "s", OBJECTIVES, trials, constraints=tuple(limits))
    assert not problems
    assert [trial.number for trial in free.front] == [0, 2]
    assert [trial.number for trial in bound.front] == [1]
