"""A published number that is the best of many settings, beside ours that validation chose.

`sweep.paper.best_of` is a list of {text, rows, expected, tolerance}: `rows` are the settings. Ours
is the test value of the setting with the best mean on validation. Beside it stands the best of all
settings, seeds and epochs on test, as such papers choose; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

from kd_research.report.counts import values
from kd_research.report.sweep import Sweep, Trial, larger_is_better
from kd_research.report.verdicts import NOT_RUN, UNFINISHED, verdict

BEST_EPOCH = "best_epoch"


class Chosen(NamedTuple):
    """One line.

    Attributes:
        text: what the settings are of.
        metric: of test.
        published: the paper's value.
        chosen: the row that validation chose; None where there is none yet.
        ours: its test values, of each seed.
        best: of all settings, seeds and, where they were read, epochs on test; None of none.
        num_settings: that are complete.
        verdict: of `ours`.
    """

    text: str
    metric: str
    published: float
    chosen: str | None
    ours: tuple[float, ...]
    best: float | None
    num_settings: int
    verdict: str


def best_of(sweep: Sweep, spec: Mapping[str, Any], another: str | None) -> list[Chosen]:
    """The lines of a sweep.

    Args:
        sweep: of rows.
        spec: what it states.
        another: what is said of all rows where they are not the paper's.
    """
    trials = {trial.label or "": trial for trial in sweep.trials}
    seeds = int(spec.get("seeds") or 1)
    found = []
    for stated in (spec.get("paper") or {}).get("best_of") or ():
        for metric, published in stated["expected"].items():
            of_rows = {label: trials[label] for label in stated["rows"] if label in trials}
            found.append(_chosen(stated, metric, published, of_rows, seeds, another))
    return found


def _chosen(
    stated: Mapping[str, Any],
    metric: str,
    published: float,
    trials: Mapping[str, Trial],
    seeds: int,
    another: str | None,
) -> Chosen:
    on_validation = metric.replace("test_", "val_", 1)
    sign = 1 if larger_is_better(metric) else -1
    complete = {
        label: fmean(values(trial, on_validation))
        for label, trial in trials.items()
        if len(values(trial, on_validation)) >= seeds and len(values(trial, metric)) >= seeds
    }
    label = max(complete, key=lambda each: sign * complete[each], default=None)
    ours = () if label is None else values(trials[label], metric)
    on_test = [
        value
        for trial in trials.values()
        for name in (metric, f"{metric}_{BEST_EPOCH}")
        for value in values(trial, name)
    ]
    best = sign * max(sign * value for value in on_test) if on_test else None
    wanted, said = len(stated["rows"]), another
    if label is None:
        said = NOT_RUN
    elif len(complete) < wanted:
        said = f"{another or UNFINISHED} ({len(complete)} of {wanted} settings)"
    said = said or verdict(metric, published, ours, stated.get("tolerance"))
    return Chosen(stated["text"], metric, published, label, ours, best, len(complete), said)
