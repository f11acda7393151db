"""How a proposal becomes a configuration: what `Plan` and the probe of its space both stand on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from kd_research.configuration import rows as fixed_rows
from kd_research.configuration.changing import Changing
from kd_research.configuration.environment import writable
from kd_research.configuration.paths import differ, settle
from kd_research.configuration.sweep_files import without_rows
from kd_research.configuration.teacher_content import INHERITED, held
from kd_research.sweep import space as spaces

PLAIN = str | int | float | bool | None


class Composition:
    """The configurations of a sweep.

    Args:
        loader: Hydra's, to compose again where a config group is swept.
        master: the composed configuration, Hydra's part with it.
        config: ours alone, paths settled.
        fixed: the command line's overrides that are no dimensions, as they were typed.
        taken: their keys, which go before a row's.
        besides: key -> value, which `config` has too: they hold with every choice of groups.
        space: the dimensions.
        rows: label -> overrides, of a sweep of fixed rows.
    """

    def __init__(
        self,
        loader: Any,
        master: DictConfig,
        config: DictConfig,
        fixed: Sequence[str],
        taken: set[str],
        besides: Mapping[str, Any],
        space: Sequence[spaces.Dimension],
        rows: Mapping[str, dict[str, Any]],
    ):
        self.loader, self.master, self.config = loader, master, config
        self.fixed, self.taken, self.besides = list(fixed), taken, besides
        self.space, self.rows = space, rows
        self.held: dict[str, Any] = {}  # what was composed so far kept of its teacher
        self._groups: dict[str, bool] = {}
        self._choices: dict[str, DictConfig] = {}
        self._composed: dict[tuple[tuple[str, spaces.Value], ...], DictConfig] = {}
        self._lent: dict[Any, Changing] = {}  # (groups, keys) -> with a proposal's values

    @cached_property
    def _without_rows(self) -> DictConfig:
        """The configuration but for the rows, which are many and would be copied for each."""
        config = self.config.copy()
        config.sweep.rows = {}
        return config

    def propose(self, suggest: Callable[[str], spaces.Value]) -> dict[str, spaces.Value]:
        """A proposal: config groups first; then the keys that exist with these groups.

        Args:
            suggest: gives the value of a dimension, by its key.
        """
        params = {item.key: suggest(item.key) for item in self.space if item.is_group}
        config = self.with_groups(tuple(params.items()))
        for item in self.space:
            wanted = item.only is None or params.get(item.only[0]) == item.only[1]
            if not item.is_group and wanted and (item.is_new or exists(config, item.config_key)):
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
        groups = self._chosen(params)
        config = self.with_groups(groups).copy()
        self._set(config, params)
        moved = [known[key].config_key for key in params if part_of(key) in INHERITED]
        if moved:
            others = tuple((key, value) for key, value in groups if part_of(key) not in INHERITED)
            sets = tuple((key, value) for key, value in groups if key == "dataset")
            before = self.with_groups((*others, *sets))
            varied = [key for key in moved if key != "dataset"]
            self._hold(config, before, varied)
        settle(config)
        return config

    def written(
        self, params: Mapping[str, spaces.Value], seed_index: int, tracking: Mapping[str, str]
    ) -> dict[str, Any]:
        """What `compose` gives, as a run's config.yaml has it, for one of a trial's seeds.

        The values of all proposals with the same choices and keys are set in one copy of the
        configuration, and what they do not change is resolved once: copying and resolving it for
        each takes half of what the harness needs for a trial.

        Args:
            params: the proposal.
            seed_index: which of the trial's seeds.
            tracking: settings of `tracking`, on top.
        """
        unlike = any(part_of(key) in INHERITED for key in params)
        groups = self._chosen(params)
        base = self.with_groups(groups)
        unlike = unlike or differ(base, [item.config_key for item in self.space])
        if self.rows or unlike or any("${" in str(value) for value in params.values()):
            config = self.compose(params)
            _number(config, config.seed + seed_index, tracking)
            return writable(config)
        kind = (groups, frozenset(params))
        lent = self._lent.get(kind)
        config = base.copy() if lent is None else lent.config
        config.seed = base.seed
        self._set(config, params)
        _number(config, config.seed + seed_index, tracking)
        if lent is None:
            keys = [item.config_key for item in self.space if item.key in params]
            stated = [*keys, "seed", *(f"tracking.{key}" for key in tracking)]
            lent = self._lent[kind] = Changing(config, stated)
        return lent.writable()

    def _chosen(self, params: Mapping[str, spaces.Value]) -> tuple[tuple[str, spaces.Value], ...]:
        groups = {item.key for item in self.space if item.is_group}
        return tuple((key, value) for key, value in params.items() if key in groups)

    def _set(self, config: DictConfig, params: Mapping[str, spaces.Value]) -> None:
        """Set the values of a proposal, but for its groups."""
        known = {item.key: item for item in self.space}
        for key, value in params.items():
            item = known[key]
            if not item.is_group:
                content, at = item.content(value), item.config_key
                OmegaConf.update(config, at, content, merge=False, force_add=item.is_new)

    def _hold(self, config: DictConfig, before: DictConfig, varied: Sequence[str]) -> None:
        """Keep the teacher as it is without what is varied."""
        kept = held(config, before, varied)
        fixed_rows.apply(config, kept)
        self.held |= {key.removeprefix("+teacher."): value for key, value in kept.items()}

    def _compose_row(self, label: str) -> DictConfig:
        """The configuration of a row; what the command line sets goes before the row."""
        found = self._composed.get(((fixed_rows.ROW_KEY, label),))
        if found is None:
            stated = self.rows[label]
            overrides = {k: v for k, v in stated.items() if k.lstrip("+") not in self.taken}
            varied = list(overrides)
            groups = [key for key in overrides if self._is_group(key.lstrip("+").split("@")[0])]
            found = self._without_rows.copy()
            for key in groups:  # each composed once, however many rows have it
                chosen = f"{key}={overrides.pop(key)}"
                node = key.lstrip("+").rpartition("@")[2]
                content = OmegaConf.select(self._with_choice(chosen), node)
                OmegaConf.update(found, node, content, merge=False, force_add=True)
            fixed_rows.apply(found, overrides)
            self._hold(found, self._without_rows, varied)
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
            self._choices[chosen] = without_hydra(composed)
        return self._choices[chosen]

    def labels_alone(self) -> DictConfig:
        """The `loss` of loss=ce, whatever else is chosen or set."""
        with without_rows():
            composed = self.loader.load_sweep_config(self.master, ["loss=ce"])
        loss: DictConfig = without_hydra(composed).loss
        return loss

    def _is_group(self, name: str) -> bool:
        if name not in self._groups:
            self._groups[name] = bool(self.loader.get_group_options(name))
        return self._groups[name]

    def described(self, params: Mapping[str, spaces.Value]) -> tuple[str | None, dict[str, Any]]:
        """A trial's label, if it is a row, and the settings that it stands for."""
        if not self.rows:
            names = {item.key: item.config_key for item in self.space}
            return None, {names[key]: value for key, value in params.items()}
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
            composed = without_hydra(
                self.loader.load_sweep_config(self.master, self.fixed + chosen)
            )
            fixed_rows.apply(composed, self.besides)
            settle(composed, of_all_trials=True)
            self._composed[groups] = composed
        return self._composed[groups]


def _number(config: DictConfig, seed: int, tracking: Mapping[str, str]) -> None:
    """Make it the configuration of one of a trial's runs."""
    config.seed = seed
    for key, value in tracking.items():
        config.tracking[key] = value


def part_of(key: str) -> str:
    """The part of the configuration in which a key, or a group with its package, is."""
    return key.lstrip("+").rpartition("@")[2].split(".")[0].split(" ")[0]


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy of what is ours; Hydra's part cannot be resolved outside a job."""
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    return config


def exists(config: DictConfig, key: str) -> bool:
    """Whether a configuration has the key, be it null."""
    *parents, last = key.split(".")
    node = OmegaConf.select(config, ".".join(parents)) if parents else config
    return isinstance(node, DictConfig) and last in node
