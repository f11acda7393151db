"""Proposals that were not made before: no point of the space is trained twice within a seed.

Samplers repeat themselves where choices are few: TPE gives about half of 96 proposals again on 300
points. A repeated proposal takes the values of the first and counts as no trial.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator, Mapping
from itertools import product
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from kd_research.sweep.composition import Composition
from kd_research.sweep.space import Dimension, Value, suggest
from kd_research.sweep.study import DISCARDED, SharedStudy

ORIGIN = "origin"  # of a proposal that the sampler did not make: whose it is
FIXED = "fixed_params"  # Optuna's, of a trial that was enqueued
MOST_POINTS = 10_000  # of a space whose points are counted and listed
PATIENCE = 10  # repeats in a row, after which an untried point is drawn


def values(item: Dimension) -> list[Value] | None:
    """All that a dimension can be; None where there is no end of it."""
    limits = item.distribution
    if isinstance(limits, CategoricalDistribution):
        return list(limits.choices)
    assert isinstance(limits, IntDistribution | FloatDistribution)
    if limits.step is None:
        return None
    count = math.floor((limits.high - limits.low) / limits.step + 1e-9) + 1
    return [limits.low + step * limits.step for step in range(min(count, MOST_POINTS + 1))]


def points(composition: Composition) -> list[dict[str, Value]] | None:
    """Every proposal that there is; None where they have no end, or are more than MOST_POINTS."""
    known = {item.key: values(item) for item in composition.space}
    if composition.rows or any(found is None for found in known.values()):
        return None
    groups = [item.key for item in composition.space if item.is_group]
    if math.prod(len(known[key] or ()) for key in groups) > MOST_POINTS // 100:
        return None
    found: list[dict[str, Value]] = []
    for chosen in product(*(known[key] or () for key in groups)):
        first = dict(zip(groups, chosen, strict=True))
        lows = {key: (options or [None])[0] for key, options in known.items()} | first
        keys = [key for key in composition.propose(lows.__getitem__) if key not in first]
        if len(found) + math.prod(len(known[key] or ()) for key in keys) > MOST_POINTS:
            return None
        for rest in product(*(known[key] or () for key in keys)):
            found.append({**first, **dict(zip(keys, rest, strict=True))})
    return found


def _hashable(params: Mapping[str, Value]) -> Hashable:
    return tuple(sorted(params.items()))


def enqueued(shared: SharedStudy) -> list[dict[str, Value]]:
    """What was to be tried besides what the sampler proposes, be it done or waiting."""
    trials = shared.study.get_trials(deepcopy=False)
    return [fixed for one in trials if (fixed := _fixed(one)) is not None]


def _fixed(one: FrozenTrial) -> dict[str, Value] | None:
    """What a trial was given when it was enqueued: known before its sweeper has taken it up."""
    return one.system_attrs.get(FIXED)


class Proposals:
    """What the study proposes, without repeats.

    Args:
        study: of the sweep.
        composition: of its space.
    """

    def __init__(self, study: SharedStudy, composition: Composition):
        self.study, self.composition = study, composition
        self.points = points(composition)
        self._known: dict[Hashable, FrozenTrial] = {}  # proposals of settled trials
        self._num_known = 0

    def limit(self, total: int) -> int:
        """How many trials there can be; a person is told where that is less than `total`."""
        if self.points is None or len(self.points) >= total:
            return total
        print(f"note: the space has {len(self.points)} points: there will be no more trials")
        return len(self.points)

    def of(self, trial: Trial) -> dict[str, Any]:
        """What the study proposes for a trial of its own."""
        limits = {item.key: item.distribution for item in self.composition.space}
        return self.composition.propose(lambda key: suggest(trial, key, limits[key]))

    def ask(self, total: int) -> tuple[Trial, dict[str, Any]] | None:
        """A new trial and its proposal; None where there are enough, or no other point.

        Args:
            total: how many trials there shall be, of all sweepers together.
        """
        for tries in range(1, MOST_POINTS):
            trial = self.study.ask(total)
            if trial is None:
                return None
            params = self.of(trial)
            self.study.refresh()
            known = None if self.composition.rows else self._earlier(trial.number, params)
            if known is None:
                return trial, params
            self._repeat(trial, known)
            self.study.refresh()
            untried = list(self._untried())
            if self.points is not None and not untried:
                self.study.exhausted = True
                self.study.study.set_user_attr("exhausted", True)
            elif tries % PATIENCE == 0 and untried:
                self.study.study.enqueue_trial(random.Random(trial.number).choice(untried))
        return None

    def put_back(self, trial: Trial) -> None:
        """Discard a proposal whose sweeper died before it was whole; what was given waits anew."""
        known = self.study.study.get_trials(deepcopy=False)[trial.number]
        self.study.discard(trial)
        if (params := _fixed(known)) is not None:
            origin = known.user_attrs.get(ORIGIN)
            self.study.study.enqueue_trial(params, {ORIGIN: origin} if origin else None)

    def _earlier(self, number: int, params: dict[str, Any]) -> FrozenTrial | None:
        for one in self.study.settled[self._num_known :]:
            self._known.setdefault(_hashable(one.params), one)
        self._num_known = len(self.study.settled)
        if (found := self._known.get(_hashable(params))) is not None:
            return found
        before = [one for one in self.study.unsettled() if one.number < number]
        return next((one for one in before if params in (one.params, _fixed(one))), None)

    def _repeat(self, trial: Trial, known: FrozenTrial) -> None:
        """Tell the study what it knows already, if it does, outside of the count."""
        trial.set_user_attr(DISCARDED, True)
        for name, excess in (known.constraints or {}).items():
            trial.set_constraint(name, excess)
        done = known.state == TrialState.COMPLETE
        self.study.tell(trial, known.values if done else None)

    def _untried(self) -> Iterator[dict[str, Value]]:
        tried = [trial.params for trial in self.study.counted()]
        yield from (point for point in self.points or () if point not in tried)
