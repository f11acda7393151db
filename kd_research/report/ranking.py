"""Whether the rows of a paper come in the published order: Spearman's rho, and which pairs differ.

`sweep.paper.ranking` is {metric, spread}: `spread` is the least difference of two published numbers
that the paper can show. A reduced run has a ranking too, though its single values have no verdict.

Every row's mean has the standard deviation of a seed, pooled over the rows (with r rows of n seeds
each r (n - 1) degrees of freedom: two seeds alone would say little), over the square root of n.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from kd_research.configuration.statements import LEAST_RANKED, is_ranked
from kd_research.report.counts import values
from kd_research.report.numbers import show_gap
from kd_research.report.sweep import Sweep, larger_is_better

NUM_RESAMPLES = 10_000
SAME, OPPOSITE, OPEN = "same sign", "opposite sign", "not distinguishable"
Interval = tuple[float, float]


class Gap(NamedTuple):
    """Two rows that differ in the paper by more than its spread.

    Attributes:
        better: the row that is better in the paper.
        worse: the other.
        published: better - worse there.
        ours: the same difference of our means.
        half_width: of its 95 % interval; None without any spread of seeds.
        said: SAME, OPPOSITE or, where the interval has 0, OPEN.
    """

    better: str
    worse: str
    published: float
    ours: float
    half_width: float | None
    said: str


class Ranking(NamedTuple):
    """Ours against the published one.

    Attributes:
        metric: of both.
        published: row -> value, of the rows that have all their seeds.
        ours: row -> mean.
        left_out: the rows that lack seeds.
        num_seeds: of each row.
        rho: Spearman's; None for fewer than four rows, or where one of the two is constant.
        over_seeds: 95 % interval of rho over new seeds of the same rows; None of single seeds.
        over_rows: the same over other rows as well.
        spread: as stated.
        gaps: the pairs, the largest published difference first.
    """

    metric: str
    published: dict[str, float]
    ours: dict[str, float]
    left_out: list[str]
    num_seeds: int
    rho: float | None
    over_seeds: Interval | None
    over_rows: Interval | None
    spread: float
    gaps: list[Gap]

    def to_dict(self) -> dict[str, Any]:
        """As in ledger.json."""
        return {**self._asdict(), "gaps": [gap._asdict() for gap in self.gaps]}


def ranking(sweep: Sweep, spec: Mapping[str, Any]) -> Ranking | None:
    """The ranking that a sweep states; None where it states none."""
    paper = spec.get("paper") or {}
    stated = paper.get("ranking")
    if not stated:
        return None
    metric, spread = str(stated["metric"]), float(stated["spread"])
    seeds, trials = int(spec.get("seeds") or 1), {trial.label: trial for trial in sweep.trials}
    rows = {
        label: float(row["expected"][metric])
        for label, row in (spec.get("rows") or {}).items()
        if is_ranked(row, paper, metric)
    }
    found = {label: values(trials.get(label), metric) for label in rows}
    groups = {label: own for label, own in found.items() if len(own) >= seeds}
    published = {label: rows[label] for label in groups}
    ours = {label: fmean(own) for label, own in groups.items()}
    error, freedom = _pooled(groups)
    rho = spearman(list(published.values()), list(ours.values()))
    known = rho is not None and error > 0
    return Ranking(
        metric,
        published,
        ours,
        [label for label in rows if label not in groups],
        seeds,
        rho,
        interval(published, groups, other_rows=False) if known else None,
        interval(published, groups, other_rows=True) if known else None,
        spread,
        _gaps(metric, published, groups, spread, error, freedom),
    )


def spearman(one: list[float], other: list[float]) -> float | None:
    """Pearson's correlation of the ranks, ties at their mean rank.

    None for fewer than LEAST_RANKED values, or where one side is constant.
    """
    if len(one) < LEAST_RANKED:
        return None
    rho = float(_correlations(np.array([one]), np.array([other]))[0])
    return rho if np.isfinite(rho) else None


def _correlations(one: Any, other: Any) -> Any:
    """Spearman's rho of each row of two (draws, rows) arrays; NaN where one is constant."""
    from scipy.stats import rankdata  # half a second that only this needs

    ranks = [rankdata(each, axis=1) for each in (one, other)]
    centred = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    norms = [np.sqrt((each**2).sum(axis=1)) for each in centred]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (centred[0] * centred[1]).sum(axis=1) / (norms[0] * norms[1])


def _pooled(groups: Mapping[str, tuple[float, ...]]) -> tuple[float, int]:
    """The standard deviation of a seed within the rows, and its degrees of freedom."""
    freedom = sum(len(own) - 1 for own in groups.values())
    squares = sum((value - fmean(own)) ** 2 for own in groups.values() for value in own)
    return (squares / freedom) ** 0.5 if freedom else 0.0, freedom


def interval(
    published: Mapping[str, float], groups: Mapping[str, tuple[float, ...]], other_rows: bool
) -> Interval | None:
    """95 % interval of rho: percentile and basic interval of a parametric bootstrap, joined.

    In each draw every mean gets the error of its seeds anew. Such noise brings rho nearer to 0, in
    the draws once more than in ours, so that percentiles of the draws lie too low where rho is
    high. The basic interval, 2 rho less the percentiles, makes up for that, and is wrong where
    noise is all that there is (both: Davison, Hinkley 1997, Bootstrap methods and their
    application, chapter 5). From the lower to the upper end of the two is on the safe side.

    Args:
        published: of each row.
        groups: ours, of each seed.
        other_rows: also draw the rows, with replacement.
    """
    error, freedom = _pooled(groups)
    if not freedom or len(groups) < LEAST_RANKED:
        return None
    random = np.random.default_rng(0)
    size = (NUM_RESAMPLES, len(groups))
    counts = np.array([len(own) for own in groups.values()])
    # The pooled deviation is itself known from so many degrees of freedom.
    deviation = error * np.sqrt(freedom / random.chisquare(freedom, (NUM_RESAMPLES, 1)))
    means = np.array([fmean(own) for own in groups.values()])
    drawn = means + deviation / np.sqrt(counts) * random.standard_normal(size)
    theirs = np.broadcast_to(np.array(list(published.values())), size)
    if other_rows:
        chosen = random.integers(0, len(groups), size)
        drawn = np.take_along_axis(drawn, chosen, axis=1)
        theirs = np.take_along_axis(theirs, chosen, axis=1)
    rho = spearman(list(published.values()), list(means))
    if rho is None:
        return None
    low, high = map(float, np.nanpercentile(_correlations(theirs, drawn), [2.5, 97.5]))
    return max(-1.0, min(low, 2 * rho - high)), min(1.0, max(high, 2 * rho - low))


def _gaps(
    metric: str,
    published: Mapping[str, float],
    groups: Mapping[str, tuple[float, ...]],
    spread: float,
    error: float,
    freedom: int,
) -> list[Gap]:
    from scipy.special import stdtrit

    sign = 1 if larger_is_better(metric) else -1
    found = []
    for pair in combinations(published, 2):
        better, worse = sorted(pair, key=lambda label: -sign * published[label])
        there = published[better] - published[worse]
        if abs(there) <= spread + 1e-12:
            continue
        here = fmean(groups[better]) - fmean(groups[worse])
        width = None
        if error:
            share = sum(1 / len(groups[label]) for label in pair)
            width = float(stdtrit(freedom, 0.975)) * error * share**0.5
        shown = width is not None and abs(here) > width
        said = OPEN if not shown else SAME if sign * here > 0 else OPPOSITE
        found.append(Gap(better, worse, there, here, width, said))
    return sorted(found, key=lambda gap: -abs(gap.published))


def to_lines(found: Ranking | None, another: str | None) -> list[str]:
    """The ranking as Markdown, for the ledger.

    Args:
        found: none, no lines.
        another: what is said of all rows where they are not the paper's.
    """
    if found is None:
        return []
    lines = ["## The published order and ours", ""]
    if another:
        lines += [f"Of rows that are **{another}**: it speaks of this run alone.", ""]
    order = [
        sorted(of, key=lambda label: -of[label] if larger_is_better(found.metric) else of[label])
        for of in (found.published, found.ours)
    ]
    width = f"n = {found.num_seeds}"
    lines += [
        f"Spearman's rho of {found.metric}, {len(found.ours)} rows ({width} each): "
        + ("**-**" if found.rho is None else f"**{found.rho:.2f}**")
        + _shown(found.over_seeds, "over new seeds of these rows")
        + _shown(found.over_rows, "over other rows as well")
        + ".",
        "",
        f"- Published: {', '.join(order[0])}",
        f"- Ours: {', '.join(order[1])}",
    ]
    lines += [f"- Not ranked, seeds are lacking: {', '.join(found.left_out)}"] * bool(
        found.left_out
    )
    counts = ", ".join(
        f"{sum(gap.said == said for gap in found.gaps)} {said}" for said in (SAME, OPPOSITE, OPEN)
    )
    lines += [
        "",
        f"Of {len(found.gaps)} pairs that differ in the paper by more than "
        f"{show_gap(found.metric, found.spread, sign='')}: **{counts}** "
        "(95 % interval of ours, not corrected for their number).",
        "",
    ]
    shown = [gap for gap in found.gaps if gap.said != OPEN]
    if shown:
        lines += [
            "| better in the paper | than | published | ours | sign |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {gap.better} | {gap.worse} | {show_gap(found.metric, gap.published)} "
            f"| {show_gap(found.metric, gap.ours, gap.half_width or 0.0)} | {gap.said} |"
            for gap in shown
        ]
        lines += [""]
    return [
        *lines,
        "The seeds' standard deviation is pooled over the rows. rho's intervals are of a "
        f"parametric bootstrap, {NUM_RESAMPLES:,} draws; the published values are taken as exact.",
        "",
    ]


def _shown(interval: Interval | None, over: str) -> str:
    return "" if interval is None else f", 95 % {interval[0]:.2f} to {interval[1]:.2f} {over}"
