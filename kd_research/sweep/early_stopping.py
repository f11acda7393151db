"""Stops runs that their learning curve shows to be dominated (`sweep.early_stopping`).

Optuna's pruners refuse several objectives; this rule is ours. After every epoch it asks how good
the run could still become, and stops it when a finished trial, which is no larger, is better than
that already. How good it could become is learned from the finished trials' curves, without a
model of them, as conformal prediction does (Lei et al. 2018, "Distribution-Free Predictive
Inference for Regression", arXiv:1604.04173, section 2.2; there m(e) would come from other trials
than the scores): with d the distance of the selected epoch's value from the ideal (that is
1 - accuracy, or the NLL), log d falls from epoch e to the end by r(e), on average over the n
finished trials by m(e). The score of a trial is the largest r(e) / m(e) of all its epochs; q is the
ceil(c (n + 1))-th smallest score. A run exchangeable with the finished ones then ends, for all
epochs at once, at d(e) exp(-q m(e)) or worse with probability c at least. With c = 0.95 the first
19 trials stop nothing.

A sampler that learns proposes better and better trials, and stopped ones never add to the scores:
both break exchangeability, so c is what the rule aims at. What it saves and what it costs on a
recorded sweep: `python benchmarks/early_stopping.py DIR`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SELECTION_METRIC = "val_accuracy"  # as `fit` selects
CURVES = {"val_accuracy": "maximize", "val_nll": "minimize"}  # what an epoch measures
BEFORE = ("num_params", "model_bytes", "macs", "peak_memory_bytes")  # known before the first epoch
RESOLUTION = 0.001  # added to distances, which may be 0
LEAST_FALL = 0.01  # of m(e): the last epochs change nothing, and would make scores of noise

Curves = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Finished:
    """A finished trial.

    Attributes:
        number: of the trial.
        curves: of each seed: objective -> the selected epoch's value had the run ended at an
            epoch, (epochs,).
        values: objective -> the trial's value.
        feasible: whether it keeps every constraint.
    """

    number: int
    curves: Sequence[Curves]
    values: Mapping[str, float]
    feasible: bool = True


@dataclass(frozen=True)
class Stop:
    """A run that is not worth its other epochs.

    Attributes:
        error: why, for a person.
        metrics: what it had reached.
        costs: of its student.
        selection: the epoch it had reached, from 0, and the values it was expected to end with.
    """

    error: str
    metrics: dict[str, float]
    costs: dict[str, float]
    selection: dict[str, Any]


def problems(measured: Iterable[str], rows: bool) -> list[str]:
    """What keeps a sweep from stopping runs early, a line each.

    Args:
        measured: its objectives and what its constraints limit.
        rows: whether it has fixed rows.
    """
    known = [*CURVES, *BEFORE]
    unknown = dict.fromkeys(name for name in measured if name not in known)
    found = [
        f"sweep.early_stopping needs objectives and limits that a curve or the untrained student "
        f"gives ({', '.join(known)}), got {name}; leave it out, or sweep.early_stopping=null"
        for name in unknown
    ]
    if rows:
        found.append("sweep.rows are run to their end; try sweep.early_stopping=null")
    return found


class Rule:
    """The rule itself, on curves.

    Args:
        objectives: name -> maximize or minimize; of CURVES and BEFORE.
        confidence: c, over all objectives that are curves together.
    """

    def __init__(self, objectives: Mapping[str, str], confidence: float):
        self.objectives, self.confidence = objectives, confidence
        self.curves = [name for name in objectives if name in CURVES]
        self.each = 1 - (1 - confidence) / max(1, len(self.curves))
        self.finished: list[Finished] = []
        self._falls: dict[str, tuple[NDArray[np.float64], float]] = {}

    def learn(self, finished: Sequence[Finished]) -> None:
        """Take these for the finished trials; those with another number of epochs are left out."""
        lengths = [{len(curves[SELECTION_METRIC]) for curves in trial.curves} for trial in finished]
        usual = Counter(length for found in lengths for length in found if length).most_common(1)
        self.finished = [
            trial
            for trial, found in zip(finished, lengths, strict=True)
            if usual and found == {usual[0][0]}
        ]
        self._falls = {}
        place = math.ceil(self.each * (len(self.finished) + 1) - 1e-9)
        if place > len(self.finished):
            return
        for name in self.curves:
            falls = [  # (seeds, epochs) a trial
                np.log(_distance(name, np.stack([c[name] for c in trial.curves])))
                - math.log(_distance(name, trial.values[name]))
                for trial in self.finished
            ]
            mean = np.mean([fall.mean(axis=0) for fall in falls], axis=0)
            scale = np.maximum(mean, LEAST_FALL)
            scores = sorted(float((fall / scale).max()) for fall in falls)
            self._falls[name] = mean, scores[place - 1]

    def judge(self, curves: Curves, costs: Mapping[str, float]) -> Stop | None:
        """Whether to stop a run, by its epochs so far.

        Args:
            curves: as of `Finished`, as far as it has come.
            costs: of its student, by name.
        """
        epochs = len(curves[SELECTION_METRIC])
        if not self._falls or not epochs or epochs >= len(next(iter(self._falls.values()))[0]):
            return None
        best, expected = {}, {}
        for name, (mean, score) in self._falls.items():
            now = _distance(name, curves[name])
            scale = np.maximum(mean[:epochs], LEAST_FALL)
            best[name] = _value(name, float((now * np.exp(-score * scale)).max()))
            expected[name] = _value(name, float(now[-1] * math.exp(-mean[epochs - 1])))
        reachable = {name: best.get(name, costs.get(name, math.nan)) for name in self.objectives}
        for other in self.finished:
            if other.feasible and self._dominates(other, reachable):
                now = {name: float(curves[name][-1]) for name in CURVES if name in curves}
                selection = {"epoch": epochs - 1, "expected": expected}
                return Stop(self._told(other, reachable, epochs), now, dict(costs), selection)
        return None

    def _dominates(self, other: Finished, reachable: Mapping[str, float]) -> bool:
        better = []
        for name, direction in self.objectives.items():
            lead = other.values[name] - reachable[name]
            lead = lead if direction == "maximize" else -lead
            if not lead >= 0 or (name in self.curves and lead == 0):
                return False
            better.append(lead > 0)
        return any(better)

    def _told(self, other: Finished, reachable: Mapping[str, float], epochs: int) -> str:
        texts = [
            f"{name} {'at best ' if name in self.curves else ''}{reachable[name]:.5g} against "
            f"{other.values[name]:.5g}"
            for name in self.objectives
        ]
        return (
            f"stopped after {epochs} epochs: dominated by trial {other.number} with confidence "
            f"{self.confidence:g}: {', '.join(texts)}"
        )


def _distance(name: str, value: Any) -> Any:
    return (1 - value if CURVES[name] == "maximize" else value) + RESOLUTION


def _value(name: str, distance: float) -> float:
    distance = max(0.0, distance - RESOLUTION)
    return 1 - distance if CURVES[name] == "maximize" else distance


def curves_of(rows: Iterable[Mapping[str, Any]]) -> Curves:
    """From the rows of metrics.jsonl: what the selected epoch had, after every validated epoch."""
    measured = [row for row in rows if row.get(SELECTION_METRIC) is not None]
    found: dict[str, list[float]] = {name: [] for name in CURVES}
    best: Mapping[str, Any] | None = None
    for row in measured:
        if best is None or _rank(row) >= _rank(best):
            best = row
        for name, values in found.items():
            values.append(float(best.get(name, math.nan)))
    return {name: np.array(values) for name, values in found.items()}


def _rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """By what `training.selection` chooses; of equals the later goes before."""
    return row[SELECTION_METRIC], -float(row.get("val_nll", math.inf))
