"""Methods against each other on equal terms: `sweep.methods`.

Every method is tuned by a sweep of its own (`tuning/NAME` in the folder) with the same number of
trials, on validation, and with the test split unread. The best setting of each then becomes a row
of one last sweep, in the folder itself, on seeds that no tuning saw. All of them are ordinary
sweeps: the same command goes on after a kill, and finds nothing to do when all is done.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd_research.configuration import rows
from kd_research.configuration.config import ConfigError
from kd_research.configuration.resolvers import why_not
from kd_research.configuration.teacher_content import held
from kd_research.configuration.values import is_count
from kd_research.records.measures import TRAINING_COSTS
from kd_research.records.record import SWEEP_NAME
from kd_research.report import load_sweep
from kd_research.report.methods import TUNING
from kd_research.report.sweep import DEFAULTS, OWN_ORIGINS
from kd_research.report.tables import VALUE_COLUMNS, best
from kd_research.sweep import space as spaces
from kd_research.sweep.plan import Plan, take_whole
from kd_research.sweep.run import run_sweep

KEYS = ("overrides", "space")
METRICS = (  # of the final runs, which can be compared
    *VALUE_COLUMNS,
    "test_accuracy_last_epoch",
    "test_accuracy_best_epoch",
    *TRAINING_COSTS,
)
FINAL_KEYS = ("methods", "against", "metric", "final_seeds")  # of sweep, not of a tuning


@dataclass(frozen=True)
class Method:
    """One of `sweep.methods`.

    Attributes:
        overrides: configuration key or group -> value: what makes the method.
        space: key -> sweep expression: what it tunes.
    """

    overrides: Mapping[str, Any]
    space: Mapping[str, Any]


class Comparison:
    """A checked comparison: the plans of the tunings, and of the final rows.

    Args:
        loader: Hydra's.
        config: the composed configuration, fixed overrides applied.
        arguments: all overrides of the command line, as `Plan` takes them.

    Raises:
        ConfigError: with every problem of every method; or final runs are of another n_trials.
    """

    def __init__(self, loader: Any, config: DictConfig, arguments: list[str]):
        self.loader, self.master, self.arguments = loader, config, arguments
        self.fixed = spaces.fixed(arguments)
        self._typed = OverridesParser.create().parse_overrides(arguments)
        take_whole(config, self._typed, set())
        self.directory = Path(config.hydra.sweep.dir)
        self.methods, problems = read(config)
        problems += _clashes(self.methods, arguments)
        if problems:
            raise ConfigError(problems)
        self.tunings: dict[str, Plan] = {}
        for name, method in self.methods.items():
            try:
                self.tunings[name] = self._tuning(name, method)
            except ConfigError as error:
                problems += [f"sweep.methods.{name}: {line}" for line in error.problems]
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        self._refuse_other_budget()
        untuned = self.final({name: {} for name in self.methods})
        if not (self.directory / SWEEP_NAME).exists():
            untuned.write()  # so that the report reads the folder while the tuning runs

    def run(self) -> None:
        """Tune every method, then run the best settings; whatever is done already stays."""
        winners = {}
        for name, plan in self.tunings.items():
            run_sweep(plan, quiet=True)
            found = best(load_sweep(plan.directory))
            if not found:
                raise ConfigError(
                    [
                        f"sweep.methods.{name}: none of its {plan.n_trials} trials completed; see "
                        f"{plan.directory / 'report.md'}"
                    ]
                )
            params = next(iter(found.values()))["params"]
            tuned = [item for item in plan.space if item.key in params]
            winners[name] = {
                ("+" if item.is_new else "") + item.key: item.content(params[item.key])
                for item in tuned
            }
        run_sweep(self.final(winners))

    def notes(self) -> list[str]:
        """What is to be known before the tunings and the final runs, a line each."""
        plans = [*self.tunings.values(), self.final({name: {} for name in self.methods})]
        found = [line for plan in plans for line in plan.all_notes()]
        return list(dict.fromkeys(found))

    def _refuse_other_budget(self) -> None:
        """More tuning after the final runs would choose settings that were never run."""
        if not any((self.directory / "trials").glob("*")):
            return
        for plan in self.tunings.values():
            path = plan.directory / SWEEP_NAME
            known = plan.n_trials
            if path.is_file():
                known = OmegaConf.select(OmegaConf.load(path), "n_trials")
            if known != plan.n_trials:
                raise ConfigError(
                    [
                        f"{self.directory} holds final runs of what {known} trials of each method "
                        f"chose, got sweep.n_trials={plan.n_trials}: choose another name, as in "
                        "sweep.name=mine"
                    ]
                )

    def final(self, winners: Mapping[str, Mapping[str, Any]]) -> Plan:
        """The sweep of the rows: every method with its best setting, on fresh seeds."""
        config = self.loader.load_sweep_config(self.master, self.fixed)
        config.hydra.sweep.dir = str(self.directory)
        config.seed = config.seed + config.sweep.seeds
        config.sweep.seeds = config.sweep.final_seeds
        config.sweep.space, config.sweep.n_trials = None, len(self.methods)
        stated = {
            name: {"overrides": {**method.overrides, **winners[name]}}
            for name, method in self.methods.items()
        }
        OmegaConf.update(config, "sweep.rows", stated, merge=False, force_add=True)
        OmegaConf.update(config, "sweep.start_from", [], merge=False, force_add=True)  # tunings'
        return Plan(self.loader, config, self.fixed, {"sweep.space": None})

    def _tuning(self, name: str, method: Method) -> Plan:
        groups, keys = [], {}
        for key, value in method.overrides.items():
            if self.loader.get_group_options(key.lstrip("+").split("@")[0]):
                groups.append(f"{key}={value}")
            else:
                keys[key] = value
        try:
            config = self.loader.load_sweep_config(self.master, [*self.fixed, *groups])
            take_whole(config, self._typed, set())
            rows.apply(config, keys)
            before = self.loader.load_sweep_config(self.master, self.fixed)
            keys |= held(config, before, list(method.overrides))  # as the final row does
            rows.apply(config, keys)
        except Exception as error:  # Hydra's and OmegaConf's own types
            raise ConfigError([why_not(error)]) from error
        config.hydra.sweep.dir = str(self.directory / TUNING / name)
        stated: Any = OmegaConf.to_container(config.sweep)
        settings = {key: value for key, value in stated.items() if key not in FINAL_KEYS}
        settings["space"] = {**(settings["space"] or {}), **method.space}
        settings["name"] = f"{settings['name']}/{TUNING}/{name}"
        settings["baseline"] = False  # what is compared are the final rows
        unread: dict[str, Any] = {"read_test": False, "paper_rule": None, "shift_classes": []}
        besides = {**keys, **unread, "sweep": settings}
        rows.apply(config, besides)
        try:
            plan = Plan(self.loader, config, [*self.arguments, *groups], besides)
        except ValueError as error:  # a key of the method's, which some choice of a group lacks
            raise ConfigError([str(error)]) from error
        given = [(params, one) for params, one in plan.first() if one not in OWN_ORIGINS]
        plan.start_from = [_as_given(plan), *(params for params, _ in given)]
        plan.origins = [DEFAULTS, *(one for _, one in given)]
        problems = spaces.outside(plan.start_from[:1], plan.space)
        if problems:
            raise ConfigError(
                [line.replace("sweep.start_from: ", "its own default ") for line in problems]
            )
        return plan


def read(config: DictConfig) -> tuple[dict[str, Method], list[str]]:
    """The methods, and what is wrong with them before anything is composed, a line each."""
    stated, methods, problems = _stated(config, "methods"), {}, []
    if not isinstance(stated, dict) or not stated:
        problems.append(
            f"sweep.methods must name the methods, got {stated!r}; try "
            "'+sweep.methods.kd.overrides={loss: kd}'"
        )
        stated = {}
    for name, method in stated.items():
        at = f"sweep.methods.{name}"
        if not isinstance(method, dict) or not isinstance(method.get("overrides"), dict):
            problems.append(f"{at} needs overrides, as in {{overrides: {{loss: kd}}}}")
            continue
        unknown = [key for key in method if key not in KEYS]
        if unknown:
            problems.append(f"{at} has no {unknown[0]}; a method has {', '.join(KEYS)}")
        space = method.get("space") or {}
        if not isinstance(space, dict):
            problems.append(
                f"{at}.space must be keys and what is searched, got {space!r}; try "
                f"\"+{at}.space={{loss.temperature: 'interval(1, 20)'}}\""
            )
            continue
        methods[str(name)] = Method(method["overrides"], space)
    return methods, [*problems, *_comparing_problems(config, stated)]


def _stated(config: DictConfig, key: str) -> Any:
    node = OmegaConf.select(config, f"sweep.{key}", default=None)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _comparing_problems(config: DictConfig, methods: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with what the methods are tuned for, compared by, and tested against."""
    against, metric = _stated(config, "against"), str(_stated(config, "metric"))
    names = list(map(str, methods))
    if isinstance(against, list):
        for name in against:
            if str(name) not in names:
                yield f"sweep.against: {name} is no method; there are: {', '.join(names)}"
    else:
        one = against if against in names else ", ".join(names[:1])
        yield f"sweep.against must be a list of methods, got {against!r}; try sweep.against=[{one}]"
    if metric not in METRICS and not metric.startswith("shift_"):
        close = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f"did you mean {close[0]}? " if close else "try sweep.metric=test_accuracy; "
        yield f"sweep.metric: unknown metric {metric}; {hint}there are: {', '.join(METRICS)}"
    seeds = _stated(config, "final_seeds")
    if not is_count(seeds):
        at = "sweep.final_seeds"
        yield f"{at} must be a whole number >= 1, got {seeds!r}; try {at}=10"
    objectives = _stated(config, "objectives")
    if not isinstance(objectives, dict) or not objectives:
        yield (
            f"sweep.methods tunes for one objective, got sweep.objectives={objectives}; try "
            "'+sweep.objectives={val_accuracy: maximize}'"
        )
    elif len(objectives) > 1:
        yield (
            f"sweep.methods tunes for one objective, got {', '.join(map(str, objectives))}; take "
            f"the others out, as in ~sweep.objectives.{list(objectives)[-1]}"
        )


def _clashes(methods: Mapping[str, Method], arguments: list[str]) -> list[str]:
    """What the command line and a method both set: one would be tuned with, the other run."""
    problems, fixed = [], spaces.fixed(arguments)
    for text in arguments:
        key, _, value = text.lstrip("+~").partition("=")
        names = [
            name
            for name, method in methods.items()
            if key in {stated.lstrip("+") for stated in (*method.overrides, *method.space)}
        ]
        content = (
            f"overrides={{{key}: {value}}}" if text in fixed else f"space={{{key}: '{value}'}}"
        )
        if names:
            problems.append(
                f"{text}: {key} is set by sweep.methods.{', '.join(names)}; leave it "
                f'out, or give it to the method, as in "+sweep.methods.{names[0]}.{content}"'
            )
    return problems


def _as_given(plan: Plan) -> dict[str, spaces.Value]:
    """The values that the configuration itself has in the searched keys: the first trial."""
    found: dict[str, spaces.Value] = {}
    for item in plan.space:
        try:
            value = OmegaConf.select(plan.config, item.key, default=None)
        except OmegaConfBaseException:
            continue
        if isinstance(value, str | int | float) and not item.is_group:
            found[item.key] = value
    return found
