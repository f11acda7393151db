"""Recipes against each other by the seeds that they share: paired differences, corrected.

One seed gives two recipes the same initial weights (where their students are alike) and the same
order of examples, so the difference within a seed has less spread than the two have apart. The
intervals speak of new seeds, with the teacher, the data and their split as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from kd_research.report.sweep import Trial


@dataclass(frozen=True)
class Difference:
    """Of a metric, within each of n seeds: one - other.

    Attributes:
        mean: over the seeds.
        half_width: of its 95 % t interval; None for fewer than two seeds, and where all differ by
            the very same, which is no spread to judge by.
        p_value: of the two-sided paired t-test that it is 0; None likewise.
        n: how many seeds both have.
    """

    mean: float
    half_width: float | None
    p_value: float | None
    n: int


def values_by_seed(trial: Trial | None, metric: str) -> dict[int, float]:
    """The metric or cost of every completed run of the trial, by its seed."""
    records = trial.records if trial else ()
    found = {r.seed: r.value(metric) for r in records if r.status == "completed"}
    return {seed: value for seed, value in found.items() if value is not None}


def has_teachers_by_seed(trials: Iterable[Trial]) -> bool:
    """Whether some recipe's seeds had different teachers: then intervals are over these as well."""
    prints = ({r.provenance.get("teacher_fingerprint") for r in t.records} for t in trials)
    return any(len(found - {None}) > 1 for found in prints)


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """The paired difference of what is given by seed; None where no seed is shared."""
    from scipy.special import stdtr, stdtrit  # what only this needs

    gaps = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if not gaps:
        return None
    mean, n = fmean(gaps), len(gaps)
    if n < 2:
        return Difference(mean, None, None, n)
    error = stdev(gaps) / n**0.5
    if error == 0:
        return Difference(mean, 0.0, 1.0, n) if mean == 0 else Difference(mean, None, None, n)
    p_value = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Difference(mean, float(stdtrit(n - 1, 0.975)) * error, p_value, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, corrected for their number so that one false alarm in all is as rare.

    Holm 1979, A simple sequentially rejective multiple test procedure: the smallest is multiplied
    by their number m, the next by m - 1, ..., and none is smaller than one before it.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    found, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        found[place] = largest
    return found
