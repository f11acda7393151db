"""Hydra's defaults lists, unchanged: the same choices of config groups are looked up once.

Which files a configuration is merged of, and what it is before values are set, hangs on the choices
of groups alone. Only the own conf/ and sweeps/ are trusted not to change, nor their files' content;
with any other search path all is read anew each time.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from kd_research.configuration import sweep_files
from kd_research.configuration.resolvers import ROOT

OURS = [
    *(("pkg", "hydra.conf"), ("file", str(ROOT / "conf"))),
    *(("sweep-files", "sweeps"), ("structured", "")),
]
_find = config_loader_impl.create_defaults_list
_load = ConfigRepository.load_config
_merge = ConfigLoaderImpl._compose_config_from_defaults_list


class Defaults(list[Any]):
    """A defaults list that is known, and what it was merged to, once it was."""

    merged: DictConfig | None = None


@dataclass(frozen=True)
class Asked:
    """All that a defaults list hangs on."""

    config: str | None
    choices: tuple[str, ...]
    prepend_hydra: bool
    skip_missing: bool
    with_rows: bool


_known: dict[Asked, DefaultsList] = {}
_files: dict[tuple[str, bool], ConfigResult] = {}


def find(
    repo: Any, config_name: str | None, overrides_list: Any, prepend_hydra: bool, skip_missing: bool
) -> DefaultsList:
    """In place of `create_defaults_list`."""
    if not is_ours(repo):
        return _find(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    typed = Overrides(repo=repo, overrides_list=overrides_list)
    values = {id(each) for each in typed.config_overrides}
    choices = [each.input_line for each in overrides_list if id(each) not in values]
    with_rows = sweep_files._rows_wanted.get()
    asked = Asked(config_name, tuple(choices), prepend_hydra, skip_missing, with_rows)
    found = _known.get(asked)
    if found is None:
        found = _find(repo, config_name, overrides_list, prepend_hydra, skip_missing)
        found.defaults = Defaults(found.defaults)
        _known[asked] = found
    return DefaultsList(
        defaults=found.defaults,
        config_overrides=typed.config_overrides,
        defaults_tree=found.defaults_tree,
        overrides=found.overrides,
    )


def is_ours(repo: Any) -> bool:
    """Whether a search path is the project's own."""
    places = [(each.scheme(), each.path) for each in repo.get_sources()]
    return places == OURS and not sweep_files.import_from() and sweep_files.ROOT == ROOT


def load(self: ConfigRepository, config_path: str) -> ConfigResult | None:
    """In place of `load_config`, of which Hydra keeps the results for one composition."""
    if not is_ours(self):
        return _load(self, config_path)
    asked = config_path, sweep_files._rows_wanted.get()
    found = _files.get(asked)
    if found is None and (found := _load(self, config_path)) is not None:
        _files[asked] = found
    return found and dataclasses.replace(found, config=copy.deepcopy(found.config))


def merge(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
    """In place of `_compose_config_from_defaults_list`."""
    if not isinstance(defaults, Defaults):
        return _merge(self, defaults, repo)
    if defaults.merged is None:
        own = next(i for i, each in enumerate(defaults) if not is_hydras(each))
        first = tuple(map(repr, defaults[:own]))
        if first not in _first:
            _first[first] = _merge(self, defaults[:own], repo)
        _start.append(copy.deepcopy(_first[first]))
        defaults.merged = _merge(self, defaults[own:], repo)
    return copy.deepcopy(defaults.merged)


def is_hydras(default: ResultDefault) -> bool:
    """Whether it is a file of Hydra's own part, which comes first and is seldom another."""
    return str(default.config_path).startswith("hydra/")


class Start(OmegaConf):
    """What Hydra merges into: nothing at all, or what was merged before."""

    @staticmethod
    def create(*given: Any, **more: Any) -> Any:
        """OmegaConf's, but for what `merge` has begun."""
        return _start.pop() if _start else OmegaConf.create(*given, **more)


_first: dict[tuple[str, ...], DictConfig] = {}
_start: list[DictConfig] = []

PARTS = (
    (config_loader_impl, "OmegaConf", Start),
    (config_loader_impl, "create_defaults_list", find),
    (ConfigRepository, "load_config", load),
    (ConfigLoaderImpl, "_compose_config_from_defaults_list", merge),
)
