"""Recorded sweeps, searched again without training: what the benchmarks of searches stand on.

A recorded sweep has whole runs, one seed, by a sampler that does not learn, and the objectives
`val_accuracy` and one that is known before the first epoch. A proposal of a sampler is answered by
the recorded trial that is nearest to it and was not run.
"""

import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy.stats import t as student

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT
from kd_research.configuration.resolvers import register_resolvers
from kd_research.report.load import load_sweep
from kd_research.report.pareto import hypervolume
from kd_research.sweep.early_stopping import curves_of
from kd_research.sweep.plan import Plan


@dataclass(frozen=True)
class Recorded:
    """The completed trials of a sweep.

    Attributes:
        objectives: name -> maximize or minimize.
        curves: of each trial, as `sweep.early_stopping` reads them.
        accuracy: what the selected epoch had, had the run ended at an epoch, (trials, epochs).
        sizes: the other objective, to be minimised, (trials,).
        reference: accuracy and size of the corner.
        asked: of each trial, for a sampler: its parameters and what they were drawn from.
        typed: the overrides that the sweep was started with, its space among them.
    """

    name: str
    objectives: dict[str, str]
    curves: list[dict[str, NDArray[np.float64]]]
    accuracy: NDArray[np.float64]
    sizes: NDArray[np.float64]
    reference: list[float]
    asked: list[optuna.trial.FrozenTrial]
    typed: list[str]

    @property
    def epochs(self) -> int:
        return self.accuracy.shape[1]

    def volume(self, trials: Sequence[int]) -> float:
        """The hypervolume of some trials, run to their end."""
        points = [[float(self.accuracy[i, -1]), float(self.sizes[i])] for i in trials]
        return hypervolume(points, ["maximize", "minimize"], self.reference)


@cache
def recorded(directory: Path) -> Recorded:
    sweep = load_sweep(directory)
    accuracy, *others = sweep.objectives.items()
    if accuracy != ("val_accuracy", "maximize") or [each[1] for each in others] != ["minimize"]:
        raise SystemExit(
            f"{directory}: needs val_accuracy and a size to minimise, has {sweep.objectives}"
        )
    size = others[0][0]
    done = [trial for trial in sweep.trials if trial.state == "completed"]
    curves = [dict(curves_of(trial.runs[0].curves())) for trial in done]
    length = max(len(each["val_accuracy"]) for each in curves)
    whole = [i for i, each in enumerate(curves) if len(each["val_accuracy"]) == length]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{directory / 'study.db'}")
    study = optuna.load_study(study_name=None, storage=storage)
    asked = {trial.number: trial for trial in study.trials}
    space = [f"{key}={expression}" for key, expression in sweep.spec["space"].items()]
    return Recorded(
        directory.name,
        dict(sweep.objectives),
        [curves[i] for i in whole],
        np.stack([curves[i]["val_accuracy"] for i in whole]),
        np.array([float(done[i].mean(size)) for i in whole]),
        [float(sweep.reference_point[name]) for name in sweep.objectives],
        [asked[done[i].number] for i in whole],
        [*sweep.spec.get("changed", []), *space],
    )


def plan_of(*overrides: str) -> Plan:
    """The sweep that a command line asks for."""
    register_resolvers()
    hydra_plugin.register()
    stated = ["tracking=disabled", "trainer.enable_progress_bar=false", *overrides]
    parsed = OverridesParser.create().parse_overrides(stated)
    fixed = [str(item.input_line) for item in parsed if not item.is_sweep_override()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=fixed, return_hydra_config=True)
        return Plan(GlobalHydra.instance().config_loader(), config, stated)


def searched(
    table: Recorded, order: Sequence[int], seed: int, first: Sequence[dict] = ()
) -> Iterator[int]:
    """The trials that Optuna's TPE, as conf/sampler has it, runs one after the other.

    Args:
        order: of equally near ones the first of it.
        seed: of the sampler.
        first: what is proposed before the sampler is asked; it fills in what they leave open.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    made = OmegaConf.load(ROOT / "conf" / "sampler" / "tpe.yaml")
    study = optuna.create_study(
        directions=list(table.objectives.values()), sampler=instantiate(made)(seed=seed)
    )
    space = table.asked[0].distributions
    places = np.array([place_of(trial.params, space) for trial in table.asked])
    left, due = list(order), list(first)
    while left:
        if due:
            study.enqueue_trial(due.pop(0))
        proposal = study.ask(space)
        distances = np.abs(places[left] - place_of(proposal.params, space)).sum(axis=1)
        study.tell(proposal, state=optuna.trial.TrialState.FAIL)
        trial = left.pop(int(distances.argmin()))
        values = [float(table.accuracy[trial, -1]), float(table.sizes[trial])]
        told = optuna.trial.create_trial(
            params=table.asked[trial].params, distributions=space, values=values
        )
        study.add_trial(told)
        yield trial


def place_of(params: dict, space: dict) -> NDArray[np.float64]:
    """Where in the unit cube; a choice is worth its whole side."""
    found: list[float] = []
    for name, limits in space.items():
        if isinstance(limits, optuna.distributions.CategoricalDistribution):
            found += [float(params[name] == choice) / 2 for choice in limits.choices]
            continue
        scale = math.log if limits.log else float
        low, high = scale(limits.low), scale(limits.high)
        found.append((scale(params[name]) - low) / max(high - low, 1e-12))
    return np.array(found)


def half_interval(values: Sequence[float]) -> float:
    """Half the 95 % t interval of the mean."""
    count = len(values)
    return float(student.ppf(0.975, count - 1)) * statistics.stdev(values) / math.sqrt(count)
