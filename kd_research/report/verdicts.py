"""What a ledger says of a published number, and of a claim about rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from kd_research.configuration.rows import reduced
from kd_research.report.counts import split_sizes
from kd_research.report.numbers import show_gap
from kd_research.report.sweep import Sweep, Trial, is_fraction, larger_is_better

REPRODUCED, BETTER, NOT_REPRODUCED = "reproduced", "better", "not reproduced"
NOT_COMPARABLE, REDUCED, NOT_RUN = "not comparable", "reduced", "not run"
FAR = 3  # times the tolerance, with the whole interval
FAR_BETTER = f"{NOT_COMPARABLE}: far better than published, look at the protocol"
UNDECIDED = "undecided"  # more seeds would tell
UNFINISHED = "unfinished"  # or failed: not of as many seeds as there should be


def verdict(
    metric: str, published: float, found: tuple[float, ...], tolerance: float | None
) -> str:
    """Where the 95 % t interval of the mean lies: within the tolerance, or beyond it.

    An interval that does neither is undecided. One that is far better than published as a whole is
    no success: the protocol is another one.

    Args:
        metric: its name.
        published: the paper's value.
        found: ours, of each seed; a single one has no interval, which is said.
        tolerance: without one, no verdict.
    """
    if tolerance is None:
        return NOT_COMPARABLE
    gain = fmean(found) - published
    gain = gain if larger_is_better(metric) else -gain
    width = half_width(found) or 0.0
    if gain - width > FAR * tolerance > 0:
        return FAR_BETTER
    tolerance += 1e-12
    if -tolerance <= gain - width and gain + width <= tolerance:
        said = REPRODUCED
    elif gain - width > tolerance:
        said = BETTER
    elif gain + width < -tolerance:
        said = NOT_REPRODUCED
    else:
        return f"{UNDECIDED}: ± {_value(metric, width)} spans the tolerance"
    return said if len(found) > 1 else f"{said} (1 seed, no interval)"


def claim_verdict(
    claim: Mapping[str, Any], groups: Mapping[str, tuple[float, ...]], num_seeds: int = 1
) -> str:
    """Of a statement about rows; `groups` is label -> the metric of each of `num_seeds` seeds.

    `better` rows must each have a better mean than each of `worse`, or than `factor` times it if
    that is given, by more than the 95 % interval of the difference (Welch); of `similar` ones each
    difference must lie within `tolerance` with that interval. What an interval leaves open, though
    the means say the opposite, is undecided.
    """
    labels = [label for key in ("better", "worse", "similar") for label in claim.get(key) or ()]
    missing = [label for label in labels if not groups.get(label)]
    if missing:
        return f"{NOT_RUN}: {', '.join(missing)}"
    partial = {label: len(groups[label]) for label in labels if len(groups[label]) < num_seeds}
    if partial:
        counts = ", ".join(f"{label} {count} of {num_seeds}" for label, count in partial.items())
        return f"{UNFINISHED}: {counts} seeds"
    metric = claim["metric"]
    if claim.get("similar"):
        return _similar(claim, [groups[label] for label in claim["similar"]])
    sign = 1 if larger_is_better(metric) else -1
    worst, unclear, reverse = [], [], False
    for good in claim["better"]:
        for bad in claim["worse"]:
            gain, width = _gain(sign, groups[good], groups[bad])
            text = f"{good} against {bad}: {_value(metric, gain, '+')}"
            text += " without a spread" if width is None else f" ± {_value(metric, width)} (95 %)"
            if factor := claim.get("factor"):  # of counts, of which less is better
                allowed = tuple(factor * value for value in groups[bad])
                gain, width = _gain(sign, groups[good], allowed)
                times = fmean(groups[good]) / fmean(groups[bad])
                text += f", {times:.2f} times (at most {factor}: {_value(metric, gain, '+')}"
                text += ")" if width is None else f" ± {_value(metric, width)})"
            if gain <= -(width or 0.0):
                worst.append(text)
            elif width is None or gain <= width:
                unclear.append(text)
                reverse = reverse or gain <= 0
    if worst:
        return f"{NOT_REPRODUCED}: {'; '.join(worst)}"
    if unclear and reverse:
        return f"{UNDECIDED}: {'; '.join(unclear)}"
    if unclear:
        return f"same direction, but not beyond the interval: {'; '.join(unclear)}"
    return REPRODUCED


def _gain(sign: int, good: tuple[float, ...], bad: tuple[float, ...]) -> tuple[float, float | None]:
    return sign * (fmean(good) - fmean(bad)), _half_width(good, bad)


def _value(metric: str, value: float, sign: str = "") -> str:
    """A difference for people: of fractions in points, as percent."""
    return show_gap(metric, value, sign=sign) + "%" * is_fraction(metric)


def _similar(claim: Mapping[str, Any], groups: Sequence[tuple[float, ...]]) -> str:
    """Whether all differences of two rows are within the tolerance, with their whole intervals."""
    gaps = [
        (abs(fmean(one) - fmean(other)), _half_width(one, other))
        for one, other in combinations(groups, 2)
    ]
    gap, width = max(gaps, key=lambda each: each[0] + (each[1] or 0.0))
    tolerance = claim["tolerance"] + 1e-12
    held = gap + (width or 0.0) <= tolerance
    failed = any(each - (half or 0.0) > tolerance for each, half in gaps)
    said = REPRODUCED if held else NOT_REPRODUCED if failed else UNDECIDED
    apart, allowed = (_value(claim["metric"], each) for each in (gap, claim["tolerance"]))
    spread = "" if width is None else f" ± {_value(claim['metric'], width)} (95 %)"
    return f"{said}: the means differ by {apart}{spread} at most (tolerance {allowed})"


def half_width(found: tuple[float, ...]) -> float | None:
    """Half of the 95 % t interval of a mean; None of a single value."""
    from scipy.special import stdtrit

    if len(found) < 2:
        return None
    width: float = float(stdtrit(len(found) - 1, 0.975)) * stdev(found) / len(found) ** 0.5
    return width


def _half_width(one: tuple[float, ...], other: tuple[float, ...]) -> float | None:
    """Half of Welch's 95 % interval of the difference of means; None without any spread."""
    from scipy.special import stdtrit

    if min(len(one), len(other)) < 2:
        return None
    parts = [stdev(group) ** 2 / len(group) for group in (one, other)]
    total = sum(parts)
    if total == 0:
        return None
    degrees = total**2 / sum(
        part**2 / (len(group) - 1) for part, group in zip(parts, (one, other), strict=True)
    )
    width: float = float(stdtrit(degrees, 0.975)) * total**0.5
    return width


def of_another_run(said: str, verdict: str) -> str:
    """A claim's verdict where the paper's rows were not run as they are: never "reproduced"."""
    if said.startswith((NOT_RUN, UNFINISHED)):
        return said
    if said.startswith(NOT_REPRODUCED):
        return f"{verdict}: in this run it does not hold{said.removeprefix(NOT_REPRODUCED)}"
    if said.startswith(REPRODUCED):
        return f"{verdict}: in this run it holds{said.removeprefix(REPRODUCED)}"
    return f"{verdict}: {said}"


def incomplete(
    trial: Trial | None, found: tuple[float, ...], spec: Mapping[str, Any]
) -> str | None:
    """What is said of a row that lacks seeds; None where none is lacking."""
    wanted = int(spec.get("seeds") or 1)
    if len(found) >= wanted:
        return None
    if trial and trial.state == "failed":
        return f"failed ({len(found)} of {wanted} seeds completed)"
    return f"{UNFINISHED} ({len(found)} of {wanted} seeds)" if found else NOT_RUN


def of_other_rows(sweep: Sweep, spec: Mapping[str, Any]) -> str | None:
    """What is said of all rows where they are not the paper's; None where they are."""
    if reduced(spec.get("budget")):
        return REDUCED
    wanted = (spec.get("paper") or {}).get("test_examples")
    other_test = wanted and split_sizes(sweep).get("test", wanted) != wanted
    return NOT_COMPARABLE if spec.get("changed") or other_test else None
