"""Where Hydra finds the config group `sweeps`: the folder sweeps/ beside each conf/.

A source of its own, because Hydra takes every folder below a place of its search path for a
group, and because a link in conf/ does not survive every way in which a checkout is made: where
it does not, `+sweeps=NAME` would quietly set a key of that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from kd_research.configuration.own_folders import conf_folders, import_from
from kd_research.configuration.resolvers import ROOT

GROUP = "sweeps"
_rows_wanted = ContextVar("rows_wanted", default=True)


@contextmanager
def without_rows() -> Iterator[None]:
    """Within it, files are loaded without their `sweep.rows`, which Hydra copies many times."""
    token = _rows_wanted.set(False)
    try:
        yield
    finally:
        _rows_wanted.reset(token)


@cache
def _load_without_rows(path: Path, changed: int) -> DictConfig:
    content = OmegaConf.load(path)
    assert isinstance(content, DictConfig)
    if "sweep" in content and "rows" in content.sweep:
        content.sweep.rows = {}
    return content


def _roots() -> list[Path]:
    """The folders that hold a sweeps/, a person's own first."""
    return [*map(Path, import_from()), ROOT]


class SweepFiles(ConfigSource):
    """The YAML files in and below each sweeps/, as the group `sweeps`."""

    @staticmethod
    def scheme() -> str:
        """Of the search path's entry."""
        return "sweep-files"

    def available(self) -> bool:
        """Whether the folder is there."""
        return self.is_group(GROUP)

    def is_group(self, config_path: str) -> bool:
        """Whether it is `sweeps`, a folder below, or "", which holds `sweeps` alone."""
        if not config_path:
            return True
        return config_path.split("/")[0] == GROUP and any(
            (root / config_path).is_dir() for root in _roots()
        )

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a file."""
        return self._file(config_path) is not None

    def _file(self, config_path: str) -> Path | None:
        name = self._normalize_file_name(config_path)
        if name.split("/")[0] != GROUP:
            return None
        return next((root / name for root in _roots() if (root / name).is_file()), None)

    def load_config(self, config_path: str) -> ConfigResult:
        """The file's content.

        Raises:
            ConfigLoadError: there is no such file.
        """
        path = self._file(config_path)
        if path is None:
            raise ConfigLoadError(f"there is no {config_path}")
        header = self._get_header_dict(path.read_text(encoding="utf-8")[:512])
        if _rows_wanted.get():
            content = OmegaConf.load(path)
        else:
            content = _load_without_rows(path, path.stat().st_mtime_ns).copy()
        return ConfigResult(
            config=content, path=self.full_path(), provider=self.provider, header=header
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The groups and files in a group, sorted."""
        if not config_path:
            return [] if results_filter == ObjectType.CONFIG else [GROUP]
        found: list[str] = []
        folders = [root / config_path for root in _roots() if (root / config_path).is_dir()]
        for name in {path.name for folder in folders for path in folder.iterdir()}:
            self._list_add_result(found, f"{config_path}/{name}", name, results_filter)
        return sorted(set(found))


class SweepPath(SearchPathPlugin):
    """Puts a person's own folders, and the sweeps, at the end of Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra when it starts."""
        for folder in conf_folders():
            search_path.append("own", f"file://{folder}")
        search_path.append("kd_research", f"{SweepFiles.scheme()}://{GROUP}")
