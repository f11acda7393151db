"""Hydra's defaults lists, unchanged: the same choices of config groups are looked up once.

Which files a configuration is merged of, and what it is before values are set, hangs on the choices
of groups alone. Only the project's own conf/ and sweeps/ are trusted not to change; with any other
search path all is read anew each time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.default_element import ResultDefault
from omegaconf import DictConfig, OmegaConf

from kd_research.configuration import sweep_files
from kd_research.configuration.resolvers import ROOT

OURS = [
    *(("pkg", "hydra.conf"), ("file", str(ROOT / "conf"))),
    *(("sweep-files", "sweeps"), ("structured", "")),
]
_find = config_loader_impl.create_defaults_list
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


def find(
    repo: Any, config_name: str | None, overrides_list: Any, prepend_hydra: bool, skip_missing: bool
) -> DefaultsList:
    """In place of `create_defaults_list`."""
    places = [(each.scheme(), each.path) for each in repo.get_sources()]
    if places != OURS or sweep_files.import_from() or sweep_files.ROOT != ROOT:
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
    (ConfigLoaderImpl, "_compose_config_from_defaults_list", merge),
)
