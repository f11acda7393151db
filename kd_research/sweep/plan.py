"""A checked sweep: what the command line and `sweep` ask for, before any process is started."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kd_research.configuration import constraints
from kd_research.configuration import rows as fixed_rows
from kd_research.configuration.config import (
    COSTS,
    METRICS,
    ConfigError,
    check,
    check_sweep,
    settle,
    unset_problems,
)
from kd_research.configuration.environment import writable
from kd_research.configuration.overrides import WHOLE
from kd_research.configuration.paths import is_empty
from kd_research.configuration.structure import malformed, null_problems
from kd_research.configuration.trainer_checks import precision_notes
from kd_research.data.files import missing_files
from kd_research.pools import ray_settings
from kd_research.records.record import SWEEP_NAME, write_text
from kd_research.report.sweep import GIVEN
from kd_research.sweep import early_stopping, stated
from kd_research.sweep import space as spaces
from kd_research.sweep.composition import Composition, without_hydra
from kd_research.sweep.first_proposals import before_the_sampler
from kd_research.sweep.probe import notes, open_parts, space_problems

SCHEMA = 2  # raised when keys or targets change names: 2 since the package has rooms
# What may change between two commands that continue one sweep.
FREE_KEYS = ("output_dir", "import_from", "tracking", "num_threads", "pool")
FREE_SWEEP_KEYS = (
    *("rebuild", "baseline", "n_trials", "workers", "reference_point"),
    *("storage", "trial_timeout", "max_retries", "devices_per_trial", "only"),
    *("paper", "questions", "start_from", "prune_dominated", "early_stopping"),
)


def digest(content: Any) -> str:
    """Sixteen hexadecimal digits that name a JSON value."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Plan:
    """A checked sweep: its space, its limits, and `composition`, which makes configurations of it.

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
        self.config = without_hydra(config)
        settle(self.config, of_all_trials=True)
        overrides = OverridesParser.create().parse_overrides(arguments)
        if null := null_problems(self.config):
            raise ConfigError(null)
        stated.fill(self.config, [item for item in overrides if item.is_sweep_override()])
        if wrong := unset_problems(self.config) or malformed(self.config):
            raise ConfigError(wrong)
        if not str(config.hydra.sweep.dir).strip():
            raise ConfigError([is_empty("hydra.sweep.dir")])
        self.directory = Path(config.hydra.sweep.dir).expanduser().resolve()
        self.fixed = [str(item.input_line) for item in overrides if not item.is_sweep_override()]
        self.taken = {spaces.full_name(item) for item in overrides if not item.is_sweep_override()}
        take_whole(self.config, overrides, set(besides))
        nested, own = stated.expressions(self.config)
        expressions = {k: v for k, v in {**nested, **own}.items() if k not in self.taken}
        for item in overrides:
            if item.is_sweep_override():
                added = "+" if item.is_add() or item.is_force_add() else ""
                expressions.pop(spaces.full_name(item), None)
                expressions[added + spaces.full_name(item)] = item.get_value_string()
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
        self.composition = Composition(
            loader, config, self.config, self.fixed, self.taken, besides, self.space, self.rows
        )
        typed = {item.key_or_group for item in overrides} | set(own)
        self.notes, wrong = stated.refine(self.composition, nested if expressions else {}, typed)
        self.space = list(self.composition.space)
        problems += wrong + self._problems(bool(row_problems))
        settings: Any = OmegaConf.to_container(self.config.sweep, resolve=True)
        lists = {key: settings.get(key) for key in ("start_from", "constraints")}
        lists = {key: found if isinstance(found, list) else [] for key, found in lists.items()}
        self.start_from: list[dict[str, spaces.Value]] = [
            each for each in lists["start_from"] if isinstance(each, dict)
        ]
        if self.rows:  # asked for in this order
            self.start_from = [{fixed_rows.ROW_KEY: label} for label in self.rows]
        self.start_from = [spaces.named(params, self.space) for params in self.start_from]
        problems += spaces.outside(self.start_from, self.space)
        self.first_notes: list[str] = []
        self.origins = [None if self.rows else GIVEN for _ in self.start_from]
        problems += [] if problems or lists["start_from"] else self._propose_first()
        self.constraints, wrong = constraints.parse(lists["constraints"], METRICS + COSTS)
        problems += wrong
        if settings.get("early_stopping") is not None:
            measured = [*self.objectives, *(limit.name for limit in self.constraints)]
            problems += early_stopping.problems(measured, bool(self.rows))
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))

    def _propose_first(self) -> list[str]:
        """State what is tried first where nobody says what; what is wrong with that."""
        try:
            first, notes = before_the_sampler(
                self.composition, self.directory, self.objectives, self.n_trials
            )
        except ConfigError as error:
            return error.problems
        if not self.rows:
            self.start_from = [params for params, _ in first]
            self.origins = [origin for _, origin in first]
        self.first_notes = notes
        return []

    def first(self) -> list[tuple[dict[str, spaces.Value], str | None]]:
        """What is tried before the sampler is asked, each with whose it is."""
        return list(zip(self.start_from, self.origins, strict=True))

    def _problems(self, told_of_rows: bool) -> list[str]:
        problems: list[str] = []
        launcher = self.composition.master.hydra.runtime.choices.get("hydra/launcher", "basic")
        if launcher != "basic" and not str(self.config.pool._target_).endswith("LauncherPool"):
            problems.append(f"hydra/launcher={launcher} is not asked for runs; add pool=launcher")
        if str(self.config.pool._target_) == ray_settings.TARGET:
            problems += ray_settings.problems(self.config.pool)
        unsaid = open_parts(self.space)
        for examine in (lambda config: check(config, unsaid), check_sweep):
            try:
                examine(self.config)
            except ConfigError as error:
                problems += error.problems
        if "dataset" not in unsaid:
            problems += missing_files(self.config.dataset)
        if not self.space and "rows" in self.config.sweep:
            problems += [f"sweep.rows is empty; try {fixed_rows.EXAMPLE}"] * (not told_of_rows)
        elif not self.space:
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
        return problems + space_problems(self.composition, problems)

    def all_notes(self) -> list[str]:
        """What a person is to know before the first trial, a line each; nothing of it is wrong."""
        found = notes(self.composition, self.constraints)
        return [*self.notes, *precision_notes(self.config), *found, *self.first_notes]

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

    def write(self) -> None:
        """Write sweep.yaml: what the sweep was asked for, and by which command."""
        asked: Any = writable(self.config.sweep)
        asked |= {"name": str(self.config.sweep.name), "n_trials": self.n_trials}
        asked["space"] = {item.key: item.expression for item in self.space}
        if self.rows:  # those that sweep.only leaves in
            asked["rows"] = {label: asked["rows"][label] for label in self.rows}
        asked["changed"] = fixed_rows.changed([str(text) for text in self.fixed])
        asked["command"] = " ".join(["python -m kd_research.run", *sys.argv[1:]])
        write_text(self.directory / SWEEP_NAME, OmegaConf.to_yaml(OmegaConf.create(asked)))

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for two commands to continue one study."""
        plain = writable(self.config)
        sweep = {k: v for k, v in plain["sweep"].items() if k not in FREE_SWEEP_KEYS}
        sweep["space"] = {item.key: item.expression for item in self.space}
        sweep["rows"] = {label: repr(overrides) for label, overrides in self.rows.items()}
        content = {k: v for k, v in plain.items() if k not in FREE_KEYS}
        found = {**content, "sweep": sweep, "schema": SCHEMA}
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]

    @cached_property
    def mark(self) -> str:
        """The fingerprint in sixteen hexadecimal digits, which every trial's folder holds."""
        return digest(self.fingerprint())

    def refuse_other(self, known: dict[str, Any]) -> None:
        """Refuse to go on with a study of another fingerprint.

        Raises:
            ConfigError: what differs, and what to type.
        """
        wanted = self.fingerprint()
        if known.get("schema") != SCHEMA:
            why = "of an earlier version of kd_research, whose keys have other names"
        elif known != wanted:
            why = (
                "with other settings, whose trials would not compare "
                f"({'; '.join(differences(known, wanted)[:5])})"
            )
        else:
            return
        raise ConfigError(
            [f"{self.directory} holds a sweep {why}: choose another name, as in sweep.name=mine"]
        )


def take_whole(config: DictConfig, overrides: Sequence[Override], besides: set[str]) -> None:
    """Take the sweep's mappings as they were typed; Hydra merges them into the default ones.

    The space stays where `besides` states it: a tuning adds the method's to what was typed, and
    the final rows have none.
    """
    for item in overrides:
        value = None if item.is_sweep_override() else item.value()
        if item.key_or_group == "sweep.space" and besides & {"sweep", "sweep.space"}:
            continue
        if item.key_or_group in WHOLE and isinstance(value, dict):
            OmegaConf.update(config, item.key_or_group, value, merge=False, force_add=True)
    typed = {str(item.key_or_group) for item in overrides if not item.is_sweep_override()}
    own_point = any(name.startswith("sweep.reference_point") for name in typed)
    if "sweep.objectives" in typed and not own_point:
        names, point = config.sweep.objectives or {}, config.sweep.reference_point or {}
        # The default's has objectives that were replaced.
        kept = {name: value for name, value in point.items() if name in names}
        OmegaConf.update(config, "sweep.reference_point", kept, merge=False)


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
