"""What the page draws per epoch and per confidence bin, for the trials on the front.

Read from metrics.jsonl and evaluation.json; a curve longer than MAX_POINTS is thinned.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from kd_research.report.damage import (
    is_number,
    read_disagreements,
    read_evaluation,
    read_samples,
)
from kd_research.report.sweep import Sweep, Trial

MAX_TRIALS = 40
MAX_POINTS = 200
MAX_PICTURED = 12  # trials whose images are in the page
NOT_CURVES = ("epoch", "step", "time", "seconds")


def learning_curves(sweep: Sweep) -> list[dict[str, Any]]:
    """Per front trial {"trial": number, "curves": {metric: [epochs, means over seeds]}}."""
    found = []
    for trial in sweep.front[:MAX_TRIALS]:
        values: dict[str, dict[float, list[float]]] = {}
        for run in trial.runs:
            for row in run.curves():
                for name, value in row.items():
                    if name not in NOT_CURVES and "epoch" in row and is_number(value):
                        values.setdefault(name, {}).setdefault(row["epoch"], []).append(value)
        curves = {}
        for name, by_epoch in values.items():
            epochs = sorted(by_epoch)
            if len(epochs) > 1:
                kept = _thinned(epochs)
                curves[name] = [kept, [float(f"{fmean(by_epoch[e]):.5g}") for e in kept]]
        if curves:
            found.append({"trial": trial.number, "curves": curves})
    return found


def evaluations(sweep: Sweep) -> dict[int, dict[str, Any]]:
    """Front trial -> {"student", "teacher", "intervals", "samples", "disagreements"}: first seeds.

    Of the validation split: the reliability bins {"confidence", "accuracy", "count"} of both
    (Guo et al. 2017), the bootstrap intervals {metric: [low, high]}, and of language models what
    student and teacher write.
    """
    found = {}
    for trial in sweep.front[:MAX_TRIALS]:
        split = _evaluation(trial).get("val", {})
        parts = {who: split.get(key) for who, key in _PARTS.items()}
        known: dict[str, Any] = {who: _rounded(value) for who, value in parts.items() if value}
        samples = _samples(trial)
        if samples:
            known["samples"] = samples
        if known:
            found[trial.number] = known
        differing = _disagreements(trial) if len(found) < MAX_PICTURED else []
        if differing:
            found.setdefault(trial.number, {})["disagreements"] = differing
    return found


_PARTS = {
    "student": "reliability",
    "teacher": "teacher_reliability",
    "intervals": "intervals",
}


def _rounded(bins: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.4g}") for value in values] for name, values in bins.items()}


def _evaluation(trial: Trial) -> dict[str, Any]:
    try:
        return read_evaluation(trial.runs[0].directory)
    except ValueError:  # the report names it
        return {}


def _samples(trial: Trial) -> list[dict[str, Any]]:
    try:
        return read_samples(trial.runs[0].directory)
    except ValueError:  # the report names it
        return []


def _disagreements(trial: Trial) -> list[dict[str, Any]]:
    try:
        return read_disagreements(trial.runs[0].directory)
    except ValueError:  # the report names it
        return []


def _thinned(epochs: list[float]) -> list[float]:
    """At most MAX_POINTS of them, the last always among them."""
    step = math.ceil(len(epochs) / MAX_POINTS)
    return epochs[::step] if (len(epochs) - 1) % step == 0 else [*epochs[::step], epochs[-1]]
