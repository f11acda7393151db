"""What distillation gave: the front's leader less the same student trained from labels alone.

The baseline is the leader of the front, run once more from the labels alone; a sweep of rows that
has such a row of the leader's student takes that row. It is no trial: on no front, in no count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_research.records.measures import COSTS
from kd_research.report.by_seed import difference, values_by_seed
from kd_research.report.numbers import show, show_gap
from kd_research.report.sweep import Sweep, Trial, is_fraction, tie_break

WHO = "labels alone"  # what its row is called


def quality(sweep: Sweep) -> str:
    """The first objective that is no cost; the first of all where each is one."""
    names = list(sweep.objectives)
    return next((name for name in names if name not in COSTS), names[0])


def leader(sweep: Sweep) -> Trial | None:
    """The trial of the front that is best in `quality`; None without a front.

    Of equals the one with the lowest `val_nll`, then the latest.
    """
    name = quality(sweep)
    sign = -1 if sweep.objectives[name] == "maximize" else 1

    def order(trial: Trial) -> tuple[float, tuple[float, int]]:
        return sign * (trial.mean(name) or 0.0), tie_break(trial)

    return min(sweep.front, key=order, default=None)


def baseline(sweep: Sweep) -> Trial | None:
    """The leader's student trained from labels alone; None where there is none, or not yet.

    It is the leader itself where that learned from the labels alone.
    """
    first = None if sweep.plain_runs else leader(sweep)
    if first is None or first.undistilled:
        return first
    rows = sweep.trials if sweep.spec.get("rows") else ()
    found = [trial for trial in (*sweep.baselines, *rows) if _stands_for(trial, first)]
    name = quality(sweep)
    sign = -1 if sweep.objectives[name] == "maximize" else 1
    return min(found, key=lambda trial: sign * (trial.mean(name) or 0.0), default=None)


def _stands_for(trial: Trial, first: Trial) -> bool:
    """Whether it is the same student on the same data, from labels alone."""
    if trial.state != "completed" or not trial.undistilled:
        return False
    one, other = trial.records[0].config, first.records[0].config
    return all(one.get(part) == other.get(part) for part in ("student", "dataset"))


def gain(sweep: Sweep) -> str | None:
    """What distillation gave, in a line; None without a baseline."""
    first, plain = leader(sweep), baseline(sweep)
    if first is None or plain is None:
        return None
    who = f"trial {first.number}"
    if plain is first:
        return f"what distillation gave: nothing, {who} learned from the labels alone"
    name = quality(sweep)
    names = [name, name.replace("val_", "test_")] if name.startswith("val_") else [name]
    parts = [text for each in names if (text := _difference(each, first, plain))]
    done = sweep.counts["completed"]
    chosen = f"; {who} is the best of {done} in {name}" if done > 1 else ""
    return (
        f"what distillation gave: {', '.join(parts)} ({who} less its student from {WHO}, "
        f"{_seeds(first, plain)}{chosen}){_worse_teacher(sweep, first, plain)}"
    )


def _worse_teacher(sweep: Sweep, first: Trial, plain: Trial) -> str:
    """A clause where the leader's teacher is worse than the student from labels alone."""
    name = quality(sweep)
    taught, alone = first.mean(f"teacher_{name}"), plain.mean(name)
    if taught is None or alone is None:
        return ""
    if taught >= alone if sweep.objectives[name] == "maximize" else taught <= alone:
        return ""
    said = f"{name} {show(name, taught)} against {show(name, alone)}"
    return f"; the teacher is worse than {WHO}: {said}"


def _difference(name: str, first: Trial, plain: Trial) -> str | None:
    """Of a metric: by the seeds that both have, with a 95 % interval where there are several."""
    values = [values_by_seed(trial, name) for trial in (first, plain)]
    found = difference(*values)
    if found is None:
        means = first.mean(name), plain.mean(name)
        if means[0] is None or means[1] is None:
            return None
        gap, width = means[0] - means[1], None
    else:
        gap, width = found.mean, found.half_width
    unit = " points" * is_fraction(name) + ("" if width is None else " (95 %)")
    return f"{name} {show_gap(name, gap, width)}{unit}"


def _seeds(first: Trial, plain: Trial) -> str:
    counts = {len(first.records), len(plain.records)}
    if len(counts) > 1:
        return f"{len(first.records)} and {len(plain.records)} seeds"
    return f"{max(counts)} seed{'s' * (counts != {1})} each"


def summary(sweep: Sweep) -> Mapping[str, Any] | None:
    """What summary.json says of it."""
    first, plain = leader(sweep), baseline(sweep)
    if first is None or plain is None:
        return None
    names = [name for name in sweep.value_names if plain.mean(name) is not None]
    return {
        "of_trial": first.number,
        "n": len(plain.records),
        "values": {name: plain.mean(name) for name in names},
        "directory": plain.directory.relative_to(sweep.directory).as_posix(),
    }
