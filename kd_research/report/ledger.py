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

import numpy as np
from omegaconf import OmegaConf

from kd_research.record import PREDICTIONS_NAME, SWEEP_NAME, write_text
from kd_research.report.sweep import Run, Sweep, Trial
from kd_research.rows import reduced

REPRODUCED, BETTER, NOT_REPRODUCED = "reproduced", "better", "not reproduced"
NOT_COMPARABLE, REDUCED, NOT_RUN = "not comparable", "reduced", "not run"
PAPER_RULES = {"last epoch": "last_epoch", "best on test": "best_epoch"}
SHARED = ("tolerance", "selection", "reason")  # said once in `paper`, or by a row itself
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
        verdict: one of the constants above.
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


def verdict(metric: str, published: float, mean: float, tolerance: float | None) -> str:
    """Within the tolerance, on its better side, or on its worse; without one, no verdict."""
    if tolerance is None:
        return NOT_COMPARABLE
    gain = (published - mean) if "errors" in metric else (mean - published)
    if abs(gain) <= tolerance + 1e-12:
        return REPRODUCED
    return BETTER if gain > 0 else NOT_REPRODUCED


def measured(run: Run, metric: str) -> float | None:
    """A record's value, or a count of wrong examples of test from the run's predictions."""
    record = run.record
    if record is None or record.status != "completed":
        return None
    found = record.value(metric)
    path = run.directory / PREDICTIONS_NAME
    who = "teacher" if metric.startswith("teacher_") else "student"
    name, _, group = metric.removeprefix("teacher_").partition("_on_")
    counted = name == "test_errors" and (group.isdigit() or not group)
    if found is not None or not counted or not path.is_file():
        return found
    with np.load(path, allow_pickle=False) as content:
        if f"test_{who}" not in content:
            return None
        labels = content["test_labels"]
        wrong = content[f"test_{who}"] != labels
    return float(wrong[labels == int(group)].sum() if group else wrong.sum())


def values(trial: Trial | None, metric: str) -> tuple[float, ...]:
    """Of every seed that has it."""
    found = [measured(run, metric) for run in trial.runs] if trial else []
    return tuple(value for value in found if value is not None)


def entries(sweep: Sweep, spec: Mapping[str, Any]) -> list[Entry]:
    """The ledger's lines, in the order of the rows."""
    trials = {trial.label: trial for trial in sweep.trials}
    found = []
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
            if not ours:
                said = "failed" if trial and trial.state == "failed" else NOT_RUN
            elif reduced(spec.get("budget")):
                said = REDUCED
            elif spec.get("changed"):
                said = NOT_COMPARABLE
            else:
                said = verdict(metric, published, fmean(ours), tolerance)
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


def claim_verdict(claim: Mapping[str, Any], groups: Mapping[str, tuple[float, ...]]) -> str:
    """Of a statement about rows; `groups` is label -> the metric of each seed.

    `better` rows must each have a better mean than each of `worse`, by more than the 95 % interval
    of the difference (Welch), and be at most `factor` times it if that is given; `similar` ones
    must lie within `tolerance` of each other.
    """
    labels = [label for key in ("better", "worse", "similar") for label in claim.get(key) or ()]
    missing = [label for label in labels if not groups.get(label)]
    if missing:
        return f"{NOT_RUN}: {', '.join(missing)}"
    if claim.get("similar"):
        means = [fmean(groups[label]) for label in claim["similar"]]
        spread = max(means) - min(means)
        held = spread <= claim["tolerance"]
        said = REPRODUCED if held else NOT_REPRODUCED
        return f"{said}: the means differ by {spread:.4g} at most (tolerance {claim['tolerance']})"
    sign = -1 if "errors" in claim["metric"] else 1
    worst, unclear = [], []
    for good in claim["better"]:
        for bad in claim["worse"]:
            gain = sign * (fmean(groups[good]) - fmean(groups[bad]))
            width = _half_width(groups[good], groups[bad])
            text = f"{good} against {bad}: {gain:+.4g}"
            text += "" if width is None else f" ± {width:.3g}"
            factor = claim.get("factor")
            missed = factor and fmean(groups[good]) > factor * fmean(groups[bad])
            if missed:
                text += f", {fmean(groups[good]) / fmean(groups[bad]):.2f} times (at most {factor})"
            if gain <= 0 or missed:
                worst.append(text)
            elif width is None or gain <= width:
                unclear.append(text)
    if worst:
        return f"{NOT_REPRODUCED}: {'; '.join(worst)}"
    if unclear:
        return f"same direction, but within the interval: {'; '.join(unclear)}"
    return REPRODUCED


def _half_width(one: tuple[float, ...], other: tuple[float, ...]) -> float | None:
    """Half of Welch's 95 % interval of the difference of means; None for a single seed."""
    from scipy.special import stdtrit

    if min(len(one), len(other)) < 2:
        return None
    parts = [stdev(group) ** 2 / len(group) for group in (one, other)]
    total = sum(parts)
    if total == 0:
        return 0.0
    degrees = total**2 / sum(
        part**2 / (len(group) - 1) for part, group in zip(parts, (one, other), strict=True)
    )
    width: float = float(stdtrit(degrees, 0.975)) * total**0.5
    return width


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
    found = entries(sweep, spec)
    header = ["row", "metric", "published", "ours (n)", "difference", "by the paper's rule"]
    table = [[*header, "tolerance", "verdict"], ["---"] * (len(header) + 2)]
    lines += [_line(cells) for cells in [*table, *map(_cells, found)]]
    extra = [label for label, row in (spec.get("rows") or {}).items() if not row.get("expected")]
    lines += ["", *_unpublished(sweep, extra, paper)]
    groups = {trial.label or "": trial for trial in sweep.trials}
    for claim in paper.get("claims") or ():
        metric = claim["metric"]
        said = claim_verdict(claim, {k: values(trial, metric) for k, trial in groups.items()})
        lines.append(f"- Claim: {claim['text']}. **{said}**")
    lines += [
        "",
        "Ours is mean ± standard deviation over n seeds; the epoch is chosen on validation. "
        f"{MARK} was chosen on test, or read test after every epoch, as the paper did or may have "
        "done, and decides nothing. A verdict is that of the mean against the tolerance; "
        "errors are counts.",
    ]
    reasons = {entry.reason: entry.label for entry in found if entry.reason}
    lines += ["", *(f"- Tolerance of {label}: {reason}." for reason, label in reasons.items())]
    return "\n".join(lines) + "\n"


def _unpublished(sweep: Sweep, labels: list[str], paper: Mapping[str, Any]) -> list[str]:
    metric = next((claim["metric"] for claim in paper.get("claims") or ()), "test_accuracy")
    trials = {trial.label: trial for trial in sweep.trials}
    rows = [[label, _spread(metric, values(trials.get(label), metric))] for label in labels]
    if not rows:
        return []
    head = [["row without a published number", metric], ["---", "---"]]
    return [*map(_line, [*head, *rows]), ""]


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


def write_ledger(sweep: Sweep) -> Path | None:
    """Write ledger.md into the sweep's folder; None where no row has anything published."""
    path = sweep.directory / SWEEP_NAME
    spec: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    if not any(row.get("expected") for row in (spec.get("rows") or {}).values()):
        return None
    ledger = sweep.directory / "ledger.md"
    write_text(ledger, to_markdown(sweep, spec))
    return ledger
