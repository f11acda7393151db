"""Questions that a sweep of rows was made to answer (`sweep.questions`), and what it says to them.

A question either compares pairs of rows in one metric, within the seeds that they share, or shows
some values of some rows. Written to answers.md from the sweep's folder alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd_research.records.record import write_text
from kd_research.report.by_seed import (
    difference,
    has_teachers_by_seed,
    holm,
    values_by_seed,
)
from kd_research.report.methods import LEVEL, interval, numbers, table
from kd_research.report.numbers import show, show_gap
from kd_research.report.sweep import Sweep, Trial, larger_is_better

NOTE = """\
± of a row is the 95 % t interval of its mean over n seeds. Differences are within seeds (the first
row less the second, in percentage points where it is an accuracy), with their 95 % t interval; p
is of the paired t-test, corrected by Holm's method for the differences of its question; below 0.05
it is called better or worse. """
ONE_TEACHER = """\
A row has one teacher in all its runs, and all rows one split of the
data: the intervals are over the seeds of the student alone. """
TEACHERS = """\
Each seed has a teacher of its own, and all rows one split of the
data: the intervals are over the seeds of both. """


def write_answers(sweep: Sweep) -> Path | None:
    """Write answers.md into the sweep's folder; None where nothing was asked."""
    spec = sweep.spec
    if not spec.get("questions"):
        return None
    page = sweep.directory / "answers.md"
    write_text(page, to_markdown(sweep, spec))
    return page


def to_markdown(sweep: Sweep, spec: Mapping[str, Any]) -> str:
    """The page: what was run, then each question with its table and its answer in a line."""
    trials = {trial.label or "": trial for trial in sweep.trials}
    runs = [record for trial in sweep.trials for record in trial.records]
    lines = [f"# {sweep.name}", ""]
    lines += ["Made by:", "", f"    {sweep.command}", ""] if sweep.command else []
    seeds = {trial.label: {record.seed for record in trial.records} for trial in sweep.trials}
    every = set().union(*seeds.values())
    whose = "of every row" if all(found == every for found in seeds.values()) else "over all rows"
    lines.append(f"- Seeds {numbers(every)} {whose}.")
    commits = sorted({(r.provenance.get("git") or {}).get("commit", "-")[:7] for r in runs})
    devices = sorted({str(r.provenance.get("device")) for r in runs})
    lines.append(f"- Commit {', '.join(commits)}; device: {', '.join(devices)}.")
    teachers = ", ".join(
        f"{show('test_accuracy', teacher.get('test_accuracy'))} on test with "
        f"{show('num_params', teacher.get('num_params'))} parameters"
        for teacher in sweep.teachers
    )
    lines += [f"- Teachers, one seed each, that of the most rows first: {teachers}.", ""]
    for question in spec["questions"]:
        lines += [f"## {question['text']}", ""]
        answer = _differences if question.get("differences") else _values
        lines += [*answer(question, trials), ""]
    note = TEACHERS if has_teachers_by_seed(sweep.trials) else ONE_TEACHER
    return "\n".join([*lines, f'{NOTE}{note}- is "not measured".']) + "\n"


def _differences(question: Mapping[str, Any], trials: Mapping[str, Trial]) -> Iterator[str]:
    metric = str(question["metric"])
    gaps = {}
    for name, (one, other) in question["differences"].items():
        pair = (values_by_seed(trials.get(row), metric) for row in (one, other))
        gaps[name] = difference(*pair)
    tested = [name for name, gap in gaps.items() if gap and gap.p_value is not None]
    corrected = holm([float(gaps[name].p_value or 0.0) for name in tested])  # type: ignore[union-attr]
    p_values = dict(zip(tested, corrected, strict=True))
    up = larger_is_better(metric)
    said: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
    rows = []
    for name, (one, other) in question["differences"].items():
        gap, p_value = gaps[name], p_values.get(name)
        verdict = "-"
        if gap is not None and p_value is not None:
            verdict = "better" if (gap.mean > 0) == up else "worse"
            verdict = verdict if p_value < LEVEL else "no difference shown"
            said[verdict].append(str(name))
        rows.append(
            [
                str(name),
                interval(trials.get(one), metric),
                interval(trials.get(other), metric),
                show_gap(metric, gap.mean, gap.half_width) if gap else "not run",
                "-" if p_value is None else f"{p_value:.2g}",
                verdict,
            ]
        )
    header = ["", "first (n)", "second (n)", "difference", "p", "the first is"]
    yield from table(header, rows)
    yield ""
    answered = [f"{verdict}: {', '.join(names)}" for verdict, names in said.items() if names]
    yield f"**{'; '.join(answered) or 'not run'}**"


def _values(question: Mapping[str, Any], trials: Mapping[str, Trial]) -> Iterator[str]:
    names = [str(name) for name in question["values"]]
    rows = []
    for label in question["rows"]:
        trial = trials.get(label)
        counts = [len(trial.values(name)) for name in names] if trial else [0]
        cells = [
            show(name, trial.mean(name), trial.half_width(name)) if trial else "not run"
            for name in names
        ]
        rows.append([label, *cells, str(max(counts))])
    yield from table(["row", *names, "n"], rows)
    records = [r for label in question["rows"] if label in trials for r in trials[label].records]
    reasons = {str((r.provenance.get("measurement") or {}).get("energy")) for r in records}
    if any("energy" in name for name in names) and reasons:
        yield ""
        yield f"Energy: {'; '.join(sorted(reasons))}."
