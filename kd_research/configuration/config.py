"""Configuration: load, save, and the checks that need no torch, all before anything.

Every problem of a configuration is told in one `ConfigError`: what was given, what is allowed,
what to type instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException

from kd_research.configuration import trust
from kd_research.configuration.checks import value_problems
from kd_research.configuration.environment import writable
from kd_research.configuration.own_folders import add_to_path
from kd_research.configuration.parts_checks import teacher_loss_problems
from kd_research.configuration.paths import empty_problems
from kd_research.configuration.paths import settle as settle
from kd_research.configuration.resolvers import ROOT as ROOT
from kd_research.configuration.resolvers import register_resolvers as register_resolvers
from kd_research.configuration.resolvers import why_not
from kd_research.configuration.structure import null_problems, structure_problems
from kd_research.configuration.sweep_checks import sweep_value_problems
from kd_research.configuration.value_ranges import range_problems
from kd_research.configuration.values import is_count, is_number
from kd_research.records.measures import COSTS as COSTS
from kd_research.records.measures import METRICS as METRICS
from kd_research.records.printable import masked, printable
from kd_research.records.record import CONFIG_NAME, write_text

TRACKING_MODES = ("offline", "online", "disabled", "tensorboard", "csv")
DIRECTIONS = ("maximize", "minimize")


class ConfigError(Exception):
    """What is wrong with a configuration, for a person; one line a problem."""

    def __init__(self, problems: list[str]):
        self.problems = [printable(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


def load(path: Path, without: Sequence[str] = ()) -> DictConfig:
    """The composed configuration in a run's folder, checked.

    Args:
        path: of the file.
        without: keys of files that may be gone: null stands in their place.

    Raises:
        ConfigError: there is none, it is no YAML mapping, or it is wrong.
    """
    register_resolvers()
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError([f"there is no {path}; a run's folder holds a composed config"]) from None
    except Exception as error:  # the YAML parser's own types
        raise ConfigError([f"{path} is not YAML: {error}"]) from None
    if not isinstance(config, DictConfig):
        raise ConfigError([f"{path} holds no mapping"])
    for key in without:
        if OmegaConf.select(config, key, default=None) is not None:
            OmegaConf.update(config, key, None)
    add_to_path(config.get("import_from") or [])
    check(config)
    return config


def refuse_foreign(directory: Path) -> None:
    """Refuse a run's folder whose configuration names code that is not known, unless trusted.

    Raises:
        ConfigError: what it names, and how to trust it.
    """
    if line := trust.problem(directory / CONFIG_NAME, ROOT / "conf"):
        raise ConfigError([line])


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
    """OmegaConf's way to write YAML; libyaml's is nine times as fast as PyYAML's own."""


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def save(config: DictConfig | Mapping[str, Any], path: Path) -> None:
    """Write the configuration, resolved, to be run from anywhere; without secrets.

    Args:
        config: composed, or what `writable` made of it.
        path: of its YAML file.
    """
    plain = writable(config) if isinstance(config, DictConfig) else dict(config)
    write_text(path, yaml.dump(plain, Dumper=_Dumper, allow_unicode=True, sort_keys=False))


def check(config: DictConfig, open_parts: Collection[str] = ()) -> None:
    """Check one run's configuration.

    Args:
        config: what was composed.
        open_parts: as "loss", whose choice is not made yet, as in a sweep of it.

    Raises:
        ConfigError: with every problem found.
    """
    problems = list(_problems(config, open_parts))
    if problems:
        raise ConfigError(problems)


def _get(config: DictConfig, key: str) -> Any:
    return OmegaConf.select(config, key, default=None)


def unset_problems(config: DictConfig) -> list[str]:
    """The keys that wait for a value, a line each; what refers to them cannot be resolved."""
    return [_needs_value(key) for key in unset(OmegaConf.to_container(config))]


def _needs_value(key: str) -> str:
    return f"{key} has no value; type {key}=VALUE"


def unset(node: Any, path: str = "") -> Iterator[str]:
    """The keys that wait for a value, `???`; not those that refer to them."""
    if node == MISSING:
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from unset(value, f"{path}.{key}" if path else str(key))


def _problems(config: DictConfig, open_parts: Collection[str]) -> Iterator[str]:
    stated: Any = OmegaConf.to_container(config)
    if waiting := null_problems(config) or [_needs_value(key) for key in unset(stated)]:
        yield from waiting
        return
    try:
        whole: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if told := list(teacher_loss_problems(stated.get("teacher") or {})):
            yield from told
            return
        yield from _unresolved(config, why_not(error))
        return
    missing = [key for key in ("dataset", "teacher", "student", "loss") if not _get(config, key)]
    if missing:
        yield f"the configuration lacks {', '.join(missing)}; compose it by kd_research.run"
        return
    if wrong := list(structure_problems(whole)):
        yield from wrong
        return
    if empty := list(empty_problems(whole)):
        yield from empty
        return
    found = list(value_problems(stated, whole, open_parts))
    yield from found
    known = {text.split(" ")[0] for text in found}
    closed = {part: node for part, node in whole.items() if part not in open_parts}
    for text in range_problems(stated, closed):
        if text.split(" ")[0] not in known:
            yield text
    yield from _secret_problems(config, whole)
    mode = _get(config, "tracking.mode")
    if mode is not None and mode not in TRACKING_MODES:
        yield (
            f"tracking.mode must be one of {', '.join(TRACKING_MODES)}, got {mode}; "
            "try tracking=offline"
        )
    elif mode == "tensorboard" and not any(map(find_spec, ("tensorboardX", "tensorboard"))):
        yield (
            "tracking=tensorboard needs TensorBoard; install kd_research[tensorboard], or try "
            "tracking=csv"
        )


def _unresolved(config: DictConfig, reason: str) -> Iterator[str]:
    """What a person typed that an interpolation cannot take; else the reason as it is."""
    weight = OmegaConf.to_container(config.loss).get("lambda")  # type: ignore[union-attr]
    if isinstance(weight, str) and "${" not in weight:  # one_minus of a text
        yield f"loss.lambda must be from 0 to 1, got {weight!r}; try loss.lambda=0.9"
    elif "dataset.vocab_size" in reason:
        wanting = [
            who for who in ("teacher", "student") if "vocab_size" in (config[who].model or {})
        ]
        for who in wanting:
            yield (
                f"{who}: this model is for text, dataset {config.dataset.get('name')} is not; try "
                f"{who}=mlp, or dataset=hub_text"
            )
    else:
        yield reason


def _secret_problems(
    config: DictConfig, whole: Mapping[Any, Any], prefix: str = ""
) -> Iterator[str]:
    """A password is never written, so what needs it would be lost in the run's folder.

    Args:
        config: as it is stated.
        whole: the same, resolved.
        prefix: where in the configuration this is, with a dot at its end.
    """
    for key, value in whole.items():
        at = f"{prefix}{key!s}"
        if isinstance(value, Mapping):
            node = config._get_node(key)
            if isinstance(node, DictConfig) and not node._is_interpolation():
                yield from _secret_problems(node, value, f"{at}.")
        elif isinstance(value, str) and at != "sweep.storage" and masked(value) != value:
            stated = str(config._get_node(key)._value())  # type: ignore[union-attr]
            if masked(stated) != stated:
                yield (
                    f"{at}={masked(value)} holds a password, which is never written to a file; put "
                    f"it into the environment, as in '{at}=...${{oc.env:NAME}}...'"
                )


def check_sweep(config: DictConfig) -> None:
    """Check what only a sweep needs; the space itself is the sweeper's.

    Raises:
        ConfigError: with every problem found.
    """
    sweep = config.sweep
    known = METRICS + COSTS
    problems = list(sweep_value_problems(config))
    if sweep.objectives and not OmegaConf.is_dict(sweep.objectives):
        raise ConfigError(problems)
    if not sweep.objectives:
        problems.append(
            "sweep.objectives is empty; try '+sweep.objectives={val_accuracy: maximize}'"
        )
    for name, direction in (sweep.objectives or {}).items():
        if str(name).startswith("test_") or str(name) == "teacher_test_accuracy":
            problems.append(
                f"sweep.objectives.{name}: the test split never reaches the optimiser; "
                "try val_accuracy"
            )
        elif name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            problems.append(f"unknown objective {name}; {hint}there are: {', '.join(known)}")
        if direction not in DIRECTIONS:
            problems.append(
                f"sweep.objectives.{name} must be maximize or minimize, got {direction!r}"
            )
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", str(sweep.name)):
        problems.append(
            f"sweep.name must be a folder's name of letters, digits, . _ and -, got "
            f"{sweep.name!r}; try sweep.name=mine"
        )
    if sweep.workers is not None and not is_count(sweep.workers):
        problems.append(
            f"sweep.workers must be a whole number >= 1, or null for one a core, got "
            f"{sweep.workers!r}; try sweep.workers=2"
        )
    for name in ("prune_dominated", "early_stopping"):
        value = sweep[name]
        if value is not None and not (is_number(value, above=0) and value < 1):
            problems.append(
                f"sweep.{name} must be a confidence between 0 and 1, or null, got {value!r}; "
                f"try sweep.{name}=0.95"
            )
    for name in sweep.reference_point or {}:
        if name not in (sweep.objectives or {}):
            problems.append(
                f"sweep.reference_point.{name} is no objective; there are: "
                f"{', '.join(map(str, sweep.objectives or {}))}"
            )
    if problems:
        raise ConfigError(problems)
