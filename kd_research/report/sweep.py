"""A sweep in memory: its trials with their seeds, its front and its hypervolume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kd_research.configuration.constraints import Constraint
from kd_research.records.record import METRICS_NAME, RunRecord
from kd_research.report.damage import read_rows
from kd_research.report.pareto import hypervolume_history, pareto_front

DEFAULTS, GIVEN = "defaults", "sweep.start_from"  # origins: the configuration, the person
OWN_ORIGINS = (None, DEFAULTS, GIVEN)  # the sampler has none
STATES = ("completed", "running", "failed", "pruned")
LARGER_IS_BETTER = (
    "accuracy",
    "agreement",
    "retention",
    "compression",
    "speedup",
    "energy_ratio",
    "rouge_l",
    "exact_match",
)
FRACTIONS = ("accuracy", "agreement", "retention", "rouge_l", "exact_match")


def larger_is_better(metric: str) -> bool:
    """Whether a metric or cost is one of which more is better; errors, nats and costs are not."""
    return any(word in metric for word in LARGER_IS_BETTER)


def is_fraction(metric: str) -> bool:
    """Whether people read a metric in percent."""
    return any(word in metric for word in FRACTIONS)


def tie_break(trial: Trial) -> tuple[float, int]:
    """What orders trials of equal value, smaller first: the lower `val_nll`, then the later."""
    nll = trial.mean("val_nll")
    return math.inf if nll is None else nll, -trial.number


@dataclass(frozen=True)
class Run:
    """One seed of a trial; `record` is None while it runs."""

    directory: Path
    record: RunRecord | None

    def curves(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl that can be read."""
        return read_rows(self.directory / METRICS_NAME)[0]


@dataclass(frozen=True)
class Trial:
    """One proposal with all its seeds.

    Attributes:
        objectives: what every seed must have measured; else the trial failed.
        origin: whose its settings are, where no sampler proposed them.
    """

    number: int
    directory: Path
    params: Mapping[str, Any]
    runs: tuple[Run, ...]
    num_seeds: int = 1
    label: str | None = None
    objectives: tuple[str, ...] = ()
    origin: str | None = None

    @cached_property
    def records(self) -> tuple[RunRecord, ...]:
        """The records there are."""
        return tuple(run.record for run in self.runs if run.record is not None)

    @cached_property
    def state(self) -> str:
        """One of STATES: failed once a seed failed, completed when every seed is."""
        found = {record.status for record in self.records}
        for status in ("failed", "pruned"):
            if status in found:
                return status
        if len(self.records) < self.num_seeds:
            return "running"
        return "failed" if self.unmeasured else "completed"

    @property
    def lender(self) -> str | None:
        """The sweep and trial whose settings these were, of `sweep.start_from=SWEEP`."""
        return None if self.origin in OWN_ORIGINS else self.origin

    @property
    def unmeasured(self) -> list[str]:
        """The objectives that some seed did not measure, or not as a finite number."""
        return [name for name in self.objectives if len(self.values(name)) < len(self.records)]

    @property
    def error(self) -> str | None:
        """Why it failed, in one line."""
        reasons = [record.error for record in self.records if record.error]
        if reasons:
            return " ".join(reasons[0].split())
        if self.state == "failed":
            return f"its {', '.join(self.unmeasured)} was not measured, or is not finite"
        return None

    def values(self, name: str) -> list[float]:
        """The metric or cost called `name`, of each completed seed that measured it."""
        done = [record.value(name) for record in self.records if record.status == "completed"]
        return [value for value in done if value is not None]

    def mean(self, name: str) -> float | None:
        """The mean over seeds; None where nothing was measured."""
        values = self.values(name)
        return fmean(values) if values else None

    def std(self, name: str) -> float | None:
        """The sample standard deviation over seeds; None for fewer than two."""
        values = self.values(name)
        return stdev(values) if len(values) > 1 else None

    def half_width(self, name: str) -> float | None:
        """Of the 95 % t interval of the mean over seeds; None for fewer than two."""
        spread, count = self.std(name), len(self.values(name))
        if spread is None:
            return None
        from scipy.special import stdtrit  # a fifth of a second that one seed need not wait for

        factor: float = stdtrit(count - 1, 0.975)
        return float(factor * spread / count**0.5)

    @property
    def undistilled(self) -> bool:
        """Whether the student learned from the labels alone: no distillation term had a weight.

        One that has a weight in a stage before alone, as AB's and FSP's, counts too.
        """
        if not self.records:
            return False
        loss = self.records[0].config.get("loss", {})
        terms, stages = loss.get("terms"), (loss.get("stages") or {}).values()
        weights = [term.get("weight", 1) for term in (terms or {}).values()]
        weights += [each for stage in stages for each in (stage.get("weights") or {}).values()]
        return terms is not None and not any(weights)


@dataclass(frozen=True)
class Sweep:
    """All trials of a folder, with what they were asked for.

    Attributes:
        spec: what sweep.yaml says, unresolved; {} without one.
        plain_runs: whether it is a folder of single runs, each a trial here.
        baselines: trials of the front, run again from labels alone; they are no trials.
        damaged: the files that could not be read, and why, a line each.
    """

    directory: Path
    name: str
    objectives: Mapping[str, str]
    trials: tuple[Trial, ...]
    reference_point: Mapping[str, float] = field(default_factory=dict)
    n_trials: int | None = None
    command: str | None = None
    constraints: tuple[Constraint, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    baselines: tuple[Trial, ...] = ()
    plain_runs: bool = False

    @cached_property
    def points(self) -> list[list[float | None]]:
        """The objectives of each trial; None where it is not completed, or breaks a constraint."""
        return [
            [
                trial.mean(name) if trial.state == "completed" and self.feasible(trial) else None
                for name in self.objectives
            ]
            for trial in self.trials
        ]

    def feasible(self, trial: Trial) -> bool:
        """Whether the trial keeps every constraint, by its means over the seeds."""
        means = [(item, trial.mean(item.name)) for item in self.constraints]
        return all(mean is not None and item.excess(mean) <= 0 for item, mean in means)

    @property
    def directions(self) -> list[str]:
        """The objectives' directions, in order."""
        return list(self.objectives.values())

    @cached_property
    def front(self) -> list[Trial]:
        """The trials on the Pareto front, best in the first objective first."""
        members = [self.trials[index] for index in pareto_front(self.points, self.directions)]
        if not members:
            return members
        first, direction = next(iter(self.objectives.items()))
        sign = -1 if direction == "maximize" else 1
        return sorted(members, key=lambda trial: sign * (trial.mean(first) or 0.0))

    @cached_property
    def hypervolume_history(self) -> list[float] | None:
        """The hypervolume after each trial; None without a complete reference point."""
        if any(self.reference_point.get(name) is None for name in self.objectives):
            return None
        reference = [float(self.reference_point[name]) for name in self.objectives]
        return hypervolume_history(self.points, self.directions, reference)

    @property
    def hypervolume(self) -> float | None:
        """The dominated volume within the reference point; None where there is no such point."""
        history = self.hypervolume_history
        return None if history is None else (history[-1] if history else 0.0)

    @property
    def hypervolume_share(self) -> float | None:
        """The hypervolume over that of the box from the reference point to what cannot be beaten.

        That is 1 of a fraction and 0 of what is minimized; None where an objective has no end.
        """
        if self.hypervolume is None:
            return None
        box = 1.0
        for name, direction in self.objectives.items():
            if direction == "maximize" and not is_fraction(name):
                return None
            best = 1.0 if direction == "maximize" else 0.0
            box *= abs(best - float(self.reference_point[name]))
        return self.hypervolume / box if box else None

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many trials are in each of STATES."""
        states = [trial.state for trial in self.trials]
        return {state: states.count(state) for state in STATES}

    @cached_property
    def param_names(self) -> list[str]:
        """The settings that trials differ in, in the order of their first use."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.params))

    @cached_property
    def value_names(self) -> list[str]:
        """Objectives first, then every metric and cost that some trial measured."""
        found = {
            name: None
            for trial in self.trials
            for record in trial.records
            for name, value in (record.metrics | record.costs).items()
            if value is not None
        }
        return list(dict.fromkeys([*self.objectives, *found]))

    def direction_of(self, name: str) -> str:
        """The objective's direction, else what is better by the name."""
        if name in self.objectives:
            return self.objectives[name]
        return "maximize" if larger_is_better(name) else "minimize"

    @cached_property
    def teachers(self) -> list[dict[str, float]]:
        """Each teacher's values under the student's names, averaged over its trials.

        The teacher of the most trials comes first.
        """
        names = [name for name in self.value_names if f"teacher_{name}" in self.value_names]
        groups: dict[tuple[float | None, float | None], list[Trial]] = {}
        for trial in self.trials:
            key = (trial.mean("teacher_val_accuracy"), trial.mean("teacher_num_params"))
            if key != (None, None):
                groups.setdefault(key, []).append(trial)
        found = []
        for trials in sorted(groups.values(), key=len, reverse=True):
            means = {name: [t.mean(f"teacher_{name}") for t in trials] for name in names}
            known = {name: [v for v in values if v is not None] for name, values in means.items()}
            found.append({name: fmean(values) for name, values in known.items() if values})
        return found
