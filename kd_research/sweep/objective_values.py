"""What a trial's records say to the study: a value for every objective, or why there is none."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_research.configuration.constraints import Constraint
from kd_research.records.record import RunRecord


@dataclass(frozen=True)
class Result:
    """A finished trial.

    Attributes:
        values: one an objective, the means over the seeds; None if the trial failed.
        reason: why it failed, or was stopped.
        attributes: to be kept with the trial: the reason, or the spread over the seeds. A stopped
            trial has no spread: its values are not a mean over all seeds.
        excesses: constraint -> by how much the trial breaks it, <= 0 where it keeps it.
    """

    values: list[float] | None
    reason: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    excesses: dict[str, float] = field(default_factory=dict)


class Values:
    """From records to objective values.

    Args:
        objectives: names of metrics or costs.
        constraints: limits that the sampler is told of.
    """

    def __init__(self, objectives: Iterable[str], constraints: Iterable[Constraint] = ()):
        self.objectives, self.constraints = list(objectives), list(constraints)

    def of(self, records: Sequence[RunRecord]) -> Result:
        """The means over a trial's seeds, whose standard deviations are kept."""
        failed = [record.error for record in records if record.status == "failed"]
        if failed:
            reason = failed[0] or "it failed without a reason"
            return Result(None, reason, {"reason": reason})
        stopped = [record.error for record in records if record.status == "pruned"]
        whole = [record for record in records if record.status == "completed"]
        means, spreads = {}, {}
        for name in [*self.objectives, *(limit.name for limit in self.constraints)]:
            measured = [_value(record, name) for record in whole or records]
            numbers = [value for value in measured if value is not None]
            if len(numbers) < len(measured):
                reason = f"its {name} was not measured, or is not finite"
                return Result(None, reason, {"reason": reason})
            means[name] = statistics.fmean(numbers)
            if len(numbers) > 1:
                spreads[f"spread {name}"] = statistics.stdev(numbers)
        excesses = {str(limit): limit.excess(means[limit.name]) for limit in self.constraints}
        values = [means[name] for name in self.objectives]
        if stopped:
            return Result(values, stopped[0], {"pruned": stopped[0]}, excesses)
        return Result(values, None, spreads, excesses)


def _value(record: RunRecord, name: str) -> float | None:
    """Of a run that was stopped early, what it was expected to reach."""
    expected: float | None = record.selection.get("expected", {}).get(name)
    return record.value(name) if expected is None else expected
