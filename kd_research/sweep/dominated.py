"""Whether a proposal is worth its other seeds, by what its first gave (`sweep.prune_dominated`).

It is dominated when some finished proposal, whose mean over K seeds is known, is better in every
objective by more than chance explains: by t s sqrt(1 + 1/K), with s the standard deviation between
seeds, pooled over the finished proposals, and t Student's quantile at the confidence, shared out
over the proposals that it is compared with (Bonferroni). An objective that is the same for every
seed, such as the number of parameters, has s = 0: there it is enough to be no worse.
s is taken to be the same for all proposals, which it is not quite: what that costs is measured by
`benchmarks/early_stopping.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from kd_research.records.record import RECORD_NAME
from kd_research.sweep.folders import record_of

MIN_FREEDOM = 10  # degrees of freedom of s: five proposals of three seeds, ten of two


@dataclass(frozen=True)
class Proposal:
    """One that is finished, with all its seeds.

    Attributes:
        number: of the trial.
        means: over its seeds, one an objective.
        spreads: the standard deviations between its seeds, one an objective.
    """

    number: int
    means: Sequence[float]
    spreads: Sequence[float]


def due_runs(
    runs: Sequence[Path], completed: Iterable[Any], objectives: Mapping[str, str], confidence: float
) -> tuple[list[Path], str | None]:
    """Which runs of a proposal are to be run now, and why the others never will.

    Args:
        runs: its folders, one a seed.
        completed: the study's trials that have values; those that keep the constraints count, and
            of these those with a spread, which stopped ones lack.
        objectives: as in `why_dominated`.
        confidence: likewise.
    """
    left = [path for path in runs if not (path / RECORD_NAME).exists()]
    if len(runs) == 1:
        return left, None
    done = [record_of(path) for path in runs if path not in left]
    if len(done) != 1 or not left:
        return (left if done else left[:1]), None
    first = [done[0].value(name) for name in objectives]
    if done[0].status != "completed" or None in first:
        return left, None
    finished = []
    for trial in completed:
        spreads = [trial.user_attrs.get(f"spread {name}") for name in objectives]
        if None not in spreads and all(excess <= 0 for excess in trial.constraints.values()):
            finished.append(Proposal(trial.number, trial.values, spreads))
    known = [value for value in first if value is not None]
    reason = why_dominated(known, finished, len(runs), objectives, confidence)
    return ([] if reason else left), reason


def why_dominated(
    first: Sequence[float],
    finished: Sequence[Proposal],
    seeds: int,
    objectives: Mapping[str, str],
    confidence: float,
) -> str | None:
    """Why the other seeds are not worth their time, for a person; None if they are.

    Args:
        first: what the first seed gave, one value an objective.
        finished: the proposals that it is compared with.
        seeds: of each of them, K >= 2.
        objectives: name -> maximize or minimize.
        confidence: that it is truly dominated, from 0 to 1.
    """
    freedom = len(finished) * (seeds - 1)
    if freedom < MIN_FREEDOM:
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(freedom, 1 - (1 - confidence) / len(finished)))
    pooled = [math.sqrt(fmean(s * s for s in column)) for column in _columns(finished)]
    margins = [quantile * spread * math.sqrt(1 + 1 / seeds) for spread in pooled]
    signs = [1 if direction == "maximize" else -1 for direction in objectives.values()]
    for other in finished:
        leads = [
            sign * (its - own) for sign, its, own in zip(signs, other.means, first, strict=True)
        ]
        enough = all(lead >= margin for lead, margin in zip(leads, margins, strict=True))
        if enough and any(lead > 0 for lead in leads):
            told = [
                f"{name} {own:g} against {its:g}" + (f" (margin {margin:.2g})" if margin else "")
                for name, own, its, margin in zip(
                    objectives, first, other.means, margins, strict=True
                )
            ]
            return (
                f"dominated after one of {seeds} seeds: by trial {other.number} with "
                f"confidence {confidence:g}: {', '.join(told)}"
            )
    return None


def _columns(finished: Sequence[Proposal]) -> list[tuple[float, ...]]:
    return list(zip(*(other.spreads for other in finished), strict=True))
