"""The ledger of a paper: what was published, what came out here, and a verdict for every row.

Read from a sweep's folder alone: sweep.yaml has `rows` with what was published, and `paper` with
the citation, the protocol and the claims that are no single number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kd_research.configuration.rows import reduced
from kd_research.records.record import write_text
from kd_research.report.best_of import best_of
from kd_research.report.by_seed import difference, has_teachers_by_seed, values_by_seed
from kd_research.report.counts import split_sizes, values
from kd_research.report.ranking import ranking, to_lines
from kd_research.report.sweep import Sweep
from kd_research.report.verdicts import (
    NOT_COMPARABLE,
    claim_verdict,
    incomplete,
    of_another_run,
    of_other_rows,
    verdict,
)

PAPER_RULES = {"last epoch": "last_epoch", "best on test": "best_epoch"}
SHARED = ("tolerance", "selection", "reason")  # said once in `paper`, or by a row itself
OWN_METRICS = ["val_accuracy", "test_accuracy"]  # where no claim names another
MARK = "†"  # of what was chosen on test, or read it more than once


@dataclass(frozen=True)
class Entry:
    """One published number.

    Attributes:
        label: of the row.
        metric: its name, or a count: test_errors, test_errors_on_CLASS, teacher_test_errors.
        published: as in the paper; accuracies are fractions.
        ours: of each seed, chosen on validation unless the metric says otherwise.
        by_paper_rule: the same by the paper's own choice of the epoch; empty where not measured.
        num_seeds: how many there shall be.
        tolerance: of the mean against `published`; None where the paper's value is no target.
        verdict: one of `verdicts.py`.
        selection: the paper's rule.
        reason: of the tolerance.
    """

    label: str
    metric: str
    published: float
    ours: tuple[float, ...]
    by_paper_rule: tuple[float, ...]
    num_seeds: int
    tolerance: float | None
    verdict: str
    selection: str
    reason: str


def entries(sweep: Sweep, spec: Mapping[str, Any]) -> list[Entry]:
    """The ledger's lines, in the order of the rows."""
    trials = {trial.label: trial for trial in sweep.trials}
    found = []
    another = of_other_rows(sweep, spec)
    shared = {k: v for k, v in (spec.get("paper") or {}).items() if k in SHARED}
    for label, stated in (spec.get("rows") or {}).items():
        row = {**shared, **stated}
        trial, selection = trials.get(label), row.get("selection") or "unknown"
        for metric, published in (row.get("expected") or {}).items():
            tolerance = row.get("tolerance")
            tolerance = tolerance.get(metric) if isinstance(tolerance, dict) else tolerance
            ours = values(trial, metric)
            rule = PAPER_RULES.get(selection)
            theirs = values(trial, f"{metric}_{rule}") if rule else ()
            said = incomplete(trial, ours, spec) or another
            said = said or verdict(metric, published, ours, tolerance)
            found.append(
                Entry(
                    label,
                    metric,
                    published,
                    ours,
                    theirs,
                    int(spec.get("seeds") or 1),
                    tolerance,
                    said,
                    selection,
                    row.get("reason") or "",
                )
            )
    return found


def to_markdown(sweep: Sweep, spec: Mapping[str, Any]) -> str:
    """The ledger as Markdown: protocol, rows, claims, and what the marks mean."""
    paper = spec.get("paper") or {}
    lines = [f"# {sweep.name}: published against ours", ""]
    lines += [paper["citation"], ""] if paper.get("citation") else []
    for key, title in (("stated", "The paper states"), ("chosen", "Left open there, chosen here")):
        if paper.get(key):
            lines += [f"{title}:", "", *(f"- {item}" for item in paper[key]), ""]
    if reduced(spec.get("budget")):
        shares = ", ".join(f"{name} {share:g}" for name, share in spec["budget"].items())
        lines += [f"**Reduced**: run on a share of the paper's {shares}.", ""]
    if spec.get("changed"):
        lines += [f"**Changed** on the command line: {' '.join(spec['changed'])}.", ""]
    lines += _examples(sweep, paper)
    found = entries(sweep, spec)
    header = ["row", "metric", "published", "ours (n)", "difference", "by the paper's rule"]
    table = [[*header, "tolerance", "verdict"], ["---"] * (len(header) + 2)]
    if found:
        lines += [*(_line(cells) for cells in [*table, *map(_cells, found)]), ""]
    lines += _best_of(sweep, spec)
    lines += [*_unpublished(sweep, spec), *_paired(sweep, spec)]
    lines += to_lines(ranking(sweep, spec), of_other_rows(sweep, spec))
    lines += [f"- Claim: {text}. **{said}**" for text, said in claims(sweep, spec)]
    lines += [""] if lines[-1] else []
    lines += [
        "Ours is mean ± standard deviation over n seeds; the epoch is chosen on validation. "
        f"{MARK} was chosen on test, or read test after every epoch, as the paper did or may have "
        "done, and decides nothing. A verdict is that of the 95 % t interval of the mean "
        "against the tolerance; ± of a claim is a 95 % interval. Errors are counts.",
    ]
    reasons = {entry.reason: entry.label for entry in found if entry.reason}
    lines += ["", *(f"- Tolerance of {label}: {reason}." for reason, label in reasons.items())]
    return "\n".join(lines) + "\n"


def _best_of(sweep: Sweep, spec: Mapping[str, Any]) -> list[str]:
    """Published numbers that are the best of many settings."""
    rows = []
    for one in best_of(sweep, spec, of_other_rows(sweep, spec)):
        mean = fmean(one.ours) if one.ours else None
        rows.append(
            [
                f"{one.text}: best of {one.num_settings} settings",
                one.metric,
                _number(one.metric, one.published),
                f"{_spread(one.metric, one.ours)} {one.chosen or ''}".strip(),
                "-" if mean is None else _number(one.metric, mean - one.published, "+"),
                "-" if one.best is None else _number(one.metric, one.best) + MARK,
                one.verdict,
            ]
        )
    if not rows:
        return []
    head = ["of many settings", "metric", "published", "ours: chosen on validation (n)"]
    head += ["difference", "best of all on test", "verdict"]
    return [*map(_line, [head, ["---"] * len(head), *rows]), ""]


def _examples(sweep: Sweep, paper: Mapping[str, Any]) -> list[str]:
    counts, wanted = split_sizes(sweep), paper.get("test_examples")
    if not counts:
        return []
    said = " and ".join(
        f"{count:,} {'validation' if name == 'val' else name}" for name, count in counts.items()
    )
    if wanted and counts.get("test", wanted) != wanted:
        said += f" examples; **the paper's test set has {wanted:,}**"
        return [f"Measured on {said}.", ""]
    return [f"Measured on {said} examples.", ""]


def claims(sweep: Sweep, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each claim that the paper states, its text and its verdict."""
    groups = {trial.label or "": trial for trial in sweep.trials}
    another, found = of_other_rows(sweep, spec), []
    for claim in (spec.get("paper") or {}).get("claims") or ():
        of_rows = {label: values(trial, claim["metric"]) for label, trial in groups.items()}
        said = claim_verdict(claim, of_rows, int(spec.get("seeds") or 1))
        found.append((claim["text"], of_another_run(said, another) if another else said))
    return found


def unpublished(
    sweep: Sweep, spec: Mapping[str, Any]
) -> list[tuple[str, dict[str, tuple[float, ...]], str]]:
    """The rows that have no published number: label, metric -> of each seed, and verdict."""
    stated = (spec.get("paper") or {}).get("claims") or ()
    metrics = list(dict.fromkeys(claim["metric"] for claim in stated)) or OWN_METRICS
    trials = {trial.label: trial for trial in sweep.trials}
    rows = []
    for label, row in (spec.get("rows") or {}).items():
        if row.get("expected"):
            continue
        trial = trials.get(label)
        found = {metric: values(trial, metric) for metric in metrics}
        said = incomplete(trial, max(found.values(), key=len), spec)
        rows.append((label, found, said or of_other_rows(sweep, spec) or NOT_COMPARABLE))
    return rows


def _unpublished(sweep: Sweep, spec: Mapping[str, Any]) -> list[str]:
    rows = unpublished(sweep, spec)
    if not rows:
        return []
    head = ["row without a published number", *rows[0][1], "verdict"]
    cells = [[label, *map(_spread, found, found.values()), said] for label, found, said in rows]
    return [*map(_line, [head, ["---"] * len(head), *cells]), ""]


def _paired(sweep: Sweep, spec: Mapping[str, Any]) -> list[str]:
    """Each row less those that it names in `paired_with`, within the seeds that both have."""
    trials = {trial.label: trial for trial in sweep.trials}
    rows = []
    for label, row in (spec.get("rows") or {}).items():
        for other in row.get("paired_with") or ():
            cells = []
            for metric in OWN_METRICS:
                both = (values_by_seed(trials.get(each), metric) for each in (label, other))
                gap = difference(*both)
                width = "" if gap is None or gap.half_width is None else f" ± {gap.half_width:.2%}"
                cells.append("-" if gap is None else f"{gap.mean:+.2%}{width} ({gap.n})")
            if set(cells) != {"-"}:
                rows.append([label, other, *cells])
    if not rows:
        return []
    head = ["row", "less", *OWN_METRICS]
    who = "student, with the teacher and the data as they were"
    if has_teachers_by_seed(sweep.trials):
        who = "student and its teacher, with the data as they were"
    note = (
        "Differences within seeds, with their 95 % t interval (n; none where all differ by the "
        f"same): of new seeds of the {who}. They are not corrected for their number."
    )
    return [note, "", *map(_line, [head, ["---"] * len(head), *rows]), ""]


def _cells(entry: Entry) -> list[str]:
    chosen_on_test = "shift_test" in entry.metric
    mean = fmean(entry.ours) if entry.ours else None
    ours = _spread(entry.metric, entry.ours)
    if entry.ours and len(entry.ours) < entry.num_seeds:
        ours += f" of {entry.num_seeds}"
    theirs = _spread(entry.metric, entry.by_paper_rule)
    return [
        entry.label,
        entry.metric,
        _number(entry.metric, entry.published),
        ours + (MARK if chosen_on_test and entry.ours else ""),
        "-" if mean is None else _number(entry.metric, mean - entry.published, "+"),
        f"{theirs}{MARK} ({entry.selection})" if entry.by_paper_rule else entry.selection,
        "-" if entry.tolerance is None else _number(entry.metric, entry.tolerance),
        entry.verdict,
    ]


def _number(metric: str, value: float, sign: str = "") -> str:
    if "accuracy" in metric:
        return f"{100 * value:{sign}.2f}%"
    return f"{value:{sign}.1f}".removesuffix(".0")


def _spread(metric: str, found: tuple[float, ...]) -> str:
    if not found:
        return "-"
    text = _number(metric, fmean(found)).removesuffix("%")
    spread = f" ± {_number(metric, stdev(found)).removesuffix('%')}" if len(found) > 1 else ""
    return f"{text}{spread}{'%' if 'accuracy' in metric else ''} ({len(found)})"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def is_of_a_paper(spec: Mapping[str, Any]) -> bool:
    """Whether a sweep's rows are a paper's."""
    rows = (spec.get("rows") or {}).values()
    return bool(spec.get("paper")) or any(row.get("expected") for row in rows)


def write_ledger(sweep: Sweep) -> Path | None:
    """Write ledger.md into the sweep's folder; None where it is of no paper."""
    if not is_of_a_paper(sweep.spec):
        return None
    ledger = sweep.directory / "ledger.md"
    write_text(ledger, to_markdown(sweep, sweep.spec))
    return ledger
