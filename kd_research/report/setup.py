"""What was run, in a line each: data, teacher, student, loss, epochs, seeds, commit, device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kd_research.records.record import RunRecord
from kd_research.report.counts import split_sizes
from kd_research.report.numbers import show
from kd_research.report.runs import loss_name, part_name
from kd_research.report.sweep import Sweep

MAX_NAMED = 4  # values of one line


def setup(sweep: Sweep) -> list[tuple[str, str]]:
    """Name and value of each line; those that nothing is known of are left out."""
    records = [record for trial in sweep.trials for record in trial.records if record.config]
    seeds = sorted({record.seed for record in records})
    found = {
        "data": _named(_data(record.config) for record in records),
        "examples": _examples(sweep, records),
        "teacher": _teachers(sweep, records),
        "student": _named(part_name(record.config.get("student")) for record in records),
        "loss": _named(loss_name(record.config) for record in records),
        "epochs": _named(_of(record.config, "trainer", "max_epochs") for record in records),
        "seeds": f"{len(seeds)} ({_named(seeds)})" if seeds else "",
        "commit": _named(commit_of(record) for record in records),
        "device": _named(record.provenance.get("device") for record in records),
        "command": sweep.command or "",
    }
    return [(name, value) for name, value in found.items() if value]


def _of(config: Mapping[str, Any], part: str, key: str) -> Any:
    return (config.get(part) or {}).get(key)


def _data(config: Mapping[str, Any]) -> Any:
    share = _of(config, "dataset", "subset")
    name = _of(config, "dataset", "name")
    return f"{name}, {share:g} of the training split" if name and share else name


def _examples(sweep: Sweep, records: list[RunRecord]) -> str:
    """Of each split; runs before it was recorded say what their accuracies are of."""
    sizes = next((s for r in records if (s := r.provenance.get("split_sizes"))), None)
    sizes = sizes or split_sizes(sweep)
    names = {"val": "validation"}
    return ", ".join(f"{count:,} {names.get(name, name)}" for name, count in sizes.items())


def _teachers(sweep: Sweep, records: list[RunRecord]) -> str:
    name = _named(part_name(record.config.get("teacher")) for record in records)
    if len(sweep.teachers) != 1:
        return name
    parts = [
        f"{show(n, sweep.teachers[0][n])} {word}" for n, word in WORDS if n in sweep.teachers[0]
    ]
    return ", ".join([name, *parts] if name else parts)


WORDS = (("num_params", "parameters"), ("val_accuracy", "on validation"))


def commit_of(record: RunRecord, digits: int = 10) -> str | None:
    """The commit of a run, and whether the program had changes besides."""
    git = record.provenance.get("git") or {}
    changed = " with changes" if git.get("dirty") else ""
    return f"{git['commit'][:digits]}{changed}" if git.get("commit") else None


def _named(values: Iterable[Any]) -> str:
    """The values that differ, the first few by name."""
    found = list(dict.fromkeys(str(value) for value in values if value is not None))
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    return ", ".join(found[:MAX_NAMED]) + more
