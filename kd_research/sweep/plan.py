"""A checked sweep: what the command line and `sweep` ask for, before any process is started."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from kd_research.configuration import constraints
from kd_research.configuration import rows as fixed_rows
from kd_research.configuration.config import COSTS, METRICS, ConfigError, check, check_sweep, settle
from kd_research.configuration.sweep_files import without_rows
from kd_research.records.record import SWEEP_NAME, write_text
from kd_research.sweep import early_stopping
from kd_research.sweep import space as spaces
from kd_research.sweep.probe import exists, space_problems

# What may change between two commands that continue one sweep.
FREE_KEYS = ("output_dir", "tracking", "num_threads", "pool")
FREE_SWEEP_KEYS = (
    "n_trials",
    "workers",
    "reference_point",
    "storage",
    "trial_timeout",
    "max_retries",
    "devices_per_trial",
    "paper",
    "questions",
    "start_from",
    "hopeless",
    "early_stopping",
)
PLAIN = str | int | float | bool | None


class Plan:
    """A checked sweep: its space, and how a proposal becomes a configuration.

    Args:
        loader: Hydra's, to compose again where a config group is swept.
        config: the composed configuration, fixed overrides applied.
        arguments: all overrides of the command line; those in sweep syntax extend the space, a
            fixed one takes its key out of it.
        besides: key -> value, which `config` has too: they hold with every choice of groups.

    Raises:
        ConfigError: with every problem of the configuration, the sweep and its space.
    """

    def __init__(
        self, loader: Any, config: DictConfig, arguments: list[str], besides: Mapping[str, Any] = {}
    ):
        self.loader, self.master, self.config = loader, config, _without_hydra(config)
        settle(self.config)
        self.directory, self.besides = Path(config.hydra.sweep.dir), besides
        self._groups: dict[str, bool] = {}
        self._choices: dict[str, DictConfig] = {}
        self._composed: dict[tuple[tuple[str, spaces.Value], ...], DictConfig] = {}
        overrides = OverridesParser.create().parse_overrides(arguments)
        self.fixed = [item.input_line for item in overrides if not item.is_sweep_override()]
        self.taken = {item.key_or_group for item in overrides if not item.is_sweep_override()}
        space = OmegaConf.select(self.config, "sweep.space", default=None)
        stated: Any = OmegaConf.to_container(space, resolve=True) if space else {}
        expressions = {str(key): value for key, value in stated.items() if key not in self.taken}
        if any(item.key_or_group == "sweep.space" and item.value() == {} for item in overrides):
            expressions = {}  # OmegaConf merges mappings: {} would leave the default space
        for item in overrides:
            if item.is_sweep_override():
                added = "+" if item.is_add() or item.is_force_add() else ""
                expressions.pop(item.key_or_group, None)
                expressions[added + item.key_or_group] = item.get_value_string()
        names = {key.lstrip("+") for key in expressions}
        options = {key: loader.get_group_options(key.split("@")[0]) for key in names}
        groups = {key: names for key, names in options.items() if names}
        self.space, problems = spaces.parse(expressions, groups)
        self.rows, row_problems = fixed_rows.read(self.config)
        problems += row_problems
        if self.rows:
            problems += [
                f"a sweep of sweep.rows has no search space besides, got {item.key}; "
                "give it one value, or search without rows"
                for item in self.space
            ]
            self.space = [spaces.of_labels(fixed_rows.ROW_KEY, list(self.rows))]
        problems += self._problems()
        settings: Any = OmegaConf.to_container(self.config.sweep, resolve=True)
        self.start_from: list[dict[str, spaces.Value]] = settings.get("start_from") or []
        if self.rows:  # asked for in this order
            self.start_from = [{fixed_rows.ROW_KEY: label} for label in self.rows]
        problems += spaces.outside(self.start_from, self.space)
        limits = settings.get("constraints") or []
        self.constraints, wrong = constraints.parse(limits, METRICS + COSTS)
        problems += wrong
        if settings.get("early_stopping") is not None:
            measured = [*self.objectives, *(limit.name for limit in self.constraints)]
            problems += early_stopping.problems(measured, bool(self.rows))
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))

    def _problems(self) -> list[str]:
        problems: list[str] = []
        launcher = self.master.hydra.runtime.choices.get("hydra/launcher", "basic")
        if launcher != "basic" and not str(self.config.pool._target_).endswith("LauncherPool"):
            problems.append(f"hydra/launcher={launcher} is not asked for runs; add pool=launcher")
        for examine in (check, check_sweep):
            try:
                examine(self.config)
            except ConfigError as error:
                problems += error.problems
        if not self.space:
            problems.append(
                "the search space is empty: give sweep.space, or keys in sweep syntax such as "
                "loss.temperature=interval(1,20)"
            )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*is experimental")
                instantiate(self.config.sampler)(seed=0)
        except Exception as error:  # Hydra's own types, or the sampler's
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            problems.append(f"sampler: {reason}; try sampler=tpe")
        return problems + space_problems(self, problems)

    @cached_property
    def _without_rows(self) -> DictConfig:
        """The configuration but for the rows, which are many and would be copied for each."""
        config = self.config.copy()
        config.sweep.rows = {}
        return config

    @property
    def objectives(self) -> dict[str, str]:
        """Name -> maximize or minimize."""
        return {str(key): str(value) for key, value in self.config.sweep.objectives.items()}

    @property
    def n_trials(self) -> int:
        """How many trials there shall be in all; every row once."""
        return len(self.rows) or int(self.config.sweep.n_trials)

    @property
    def processes(self) -> int:
        """How many ranks a run has."""
        return devices(self.config)

    def prepared(self) -> DictConfig:
        """The configuration to try out before any trial: it is built, not trained."""
        return self.compose({item.key: item.probes()[0] for item in self.space if item.is_new})

    def propose(self, suggest: Callable[[str], spaces.Value]) -> dict[str, spaces.Value]:
        """A proposal: config groups first; then the keys that exist with these groups.

        Args:
            suggest: gives the value of a dimension, by its key.
        """
        params = {item.key: suggest(item.key) for item in self.space if item.is_group}
        config = self.with_groups(tuple(params.items()))
        for item in self.space:
            if not item.is_group and (item.is_new or exists(config, item.key)):
                params[item.key] = suggest(item.key)
        return params

    def is_complete(self, params: Mapping[str, spaces.Value]) -> bool:
        """Whether a proposal has all its parts."""
        try:
            return self.propose(params.__getitem__) == params
        except KeyError:
            return False

    def compose(self, params: Mapping[str, spaces.Value]) -> DictConfig:
        """The configuration with a proposal's values."""
        if self.rows:
            return self._compose_row(str(params[fixed_rows.ROW_KEY])).copy()
        known = {item.key: item for item in self.space}
        groups = tuple((key, value) for key, value in params.items() if known[key].is_group)
        config = self.with_groups(groups).copy()
        for key, value in params.items():
            item = known[key]
            if not item.is_group:
                content = item.content(value)
                OmegaConf.update(config, key, content, merge=False, force_add=item.is_new)
        return config

    def _compose_row(self, label: str) -> DictConfig:
        """The configuration of a row; what the command line sets goes before the row."""
        found = self._composed.get(((fixed_rows.ROW_KEY, label),))
        if found is None:
            stated = self.rows[label]
            overrides = {k: v for k, v in stated.items() if k.lstrip("+") not in self.taken}
            groups = [key for key in overrides if self._is_group(key.lstrip("+").split("@")[0])]
            found = self._without_rows.copy()
            for key in groups:  # each composed once, however many rows have it
                chosen = f"{key}={overrides.pop(key)}"
                node = key.lstrip("+").rpartition("@")[2]
                content = OmegaConf.select(self._with_choice(chosen), node)
                OmegaConf.update(found, node, content, merge=False, force_add=True)
            fixed_rows.apply(found, overrides)
            fixed_rows.reduce(found)
            settle(found)
            found.sweep.rows = {label: self.config.sweep.rows[label]}
            self._composed[(fixed_rows.ROW_KEY, label),] = found
        return found

    def _with_choice(self, chosen: str) -> DictConfig:
        if chosen not in self._choices:
            stated = map(str, self.fixed)
            fixed = [text for text in stated if not text.lstrip("+~").startswith("sweep.rows")]
            with without_rows():
                composed = self.loader.load_sweep_config(self.master, [chosen, *fixed])
            self._choices[chosen] = _without_hydra(composed)
        return self._choices[chosen]

    def _is_group(self, name: str) -> bool:
        if name not in self._groups:
            self._groups[name] = bool(self.loader.get_group_options(name))
        return self._groups[name]

    def described(self, params: Mapping[str, spaces.Value]) -> tuple[str | None, dict[str, Any]]:
        """A trial's label, if it is a row, and the settings that it stands for."""
        if not self.rows:
            return None, dict(params)
        label = str(params[fixed_rows.ROW_KEY])
        overrides = self.rows[label].items()
        return label, {k: v if isinstance(v, PLAIN) else json.dumps(v) for k, v in overrides}

    def with_groups(self, groups: tuple[tuple[str, spaces.Value], ...]) -> DictConfig:
        """The configuration with these choices of config groups; as it stands without any."""
        if not groups:
            return self.config
        if groups not in self._composed:
            known = {item.key: item for item in self.space}
            chosen = [known[key].assignment(value) for key, value in groups]
            composed = _without_hydra(
                self.loader.load_sweep_config(self.master, self.fixed + chosen)
            )
            fixed_rows.apply(composed, self.besides)
            settle(composed)
            self._composed[groups] = composed
        return self._composed[groups]

    def write(self) -> None:
        """Write sweep.yaml: what the sweep was asked for, and by which command."""
        stated: Any = OmegaConf.to_container(self.config.sweep, resolve=True)
        stated["space"] = {item.key: item.expression for item in self.space}
        stated["n_trials"] = self.n_trials
        stated["changed"] = fixed_rows.changed([str(text) for text in self.fixed])
        stated["command"] = " ".join(["python -m kd_research.run", *sys.argv[1:]])
        write_text(self.directory / SWEEP_NAME, OmegaConf.to_yaml(OmegaConf.create(stated)))

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for two commands to continue one study."""
        plain = OmegaConf.to_container(self.config, resolve=True)
        assert isinstance(plain, dict)
        sweep = {k: v for k, v in plain["sweep"].items() if k not in FREE_SWEEP_KEYS}
        sweep["space"] = {item.key: item.expression for item in self.space}
        sweep["rows"] = {label: repr(overrides) for label, overrides in self.rows.items()}
        content = {k: v for k, v in plain.items() if k not in FREE_KEYS}
        return json.loads(json.dumps({**content, "sweep": sweep}))  # type: ignore[no-any-return]


def devices(config: DictConfig) -> int:
    """How many processes Lightning wants for a run: one a device, unless it starts them itself."""
    wanted, strategy = config.trainer.get("devices", 1), str(config.trainer.get("strategy"))
    if any(word in strategy for word in ("spawn", "fork", "notebook")):
        return 1
    if isinstance(wanted, int) and wanted > 0:
        return wanted
    if OmegaConf.is_list(wanted):
        return len(wanted)
    return int(config.sweep.devices_per_trial or 1)


def _without_hydra(config: DictConfig) -> DictConfig:
    """A copy of what is ours; Hydra's part cannot be resolved outside a job."""
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    return config


def differences(known: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two fingerprints differ."""
    found = []
    for key in sorted(known.keys() | wanted.keys()):
        before, after = known.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} there, {after} now")
    return found
