"""The seed of a sweep's sampler, which no other sweeper of the study has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class SeedOnFirstTrial(BaseSampler):
    """Stands for the sampler until the first trial is made, whose number, unique, seeds it.

    Two sweepers that start together, or one that resumes, would otherwise repeat proposals.
    """

    def __init__(self, factory: Callable[..., BaseSampler], seed: int):
        self.factory, self.seed = factory, seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Put the seeded sampler in this one's place."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = self.factory(seed=self.seed + trial.number)
        study.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        """Never: `before_trial` comes first."""
        raise AssertionError("asked before a trial is made")

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        """Never: `before_trial` comes first."""
        raise AssertionError("asked before a trial is made")

    def sample_independent(self, *_: Any) -> Any:
        """Never: `before_trial` comes first."""
        raise AssertionError("asked before a trial is made")
