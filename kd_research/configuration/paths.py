"""The paths that a user gives: absolute in a run's folder, never empty."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd_research.configuration.resolvers import why_not
from kd_research.configuration.structure import value_at

PATH_KEYS = (
    "output_dir",
    "teacher.checkpoint",
    "student.checkpoint",
    "dataset.root",
    "dataset.store",
    "teacher.dataset.root",
    "student.pretraining.dataset.root",
)
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def settle(config: DictConfig, of_all_trials: bool = False) -> None:
    """Make the paths that a user gives absolute: a run's folder may be run from anywhere.

    Args:
        config: changed.
        of_all_trials: what refers to another key is left, as a trial may have another value there.
    """
    for key in PATH_KEYS:
        try:
            path = OmegaConf.select(config, key, default=None)
        except OmegaConfBaseException:
            continue  # `check` tells it
        if isinstance(path, str) and path.strip() and not (of_all_trials and _refers(config, key)):
            node, name = _place(config, key)  # perhaps an interpolation, which `update` breaks
            node[name] = str(Path(os.path.expanduser(path)).resolve())


def differ(config: DictConfig, searched: Collection[str]) -> bool:
    """Whether trials may have different paths.

    Args:
        config: of them all, settled.
        searched: keys that they vary.
    """
    return any(key in searched or _refers(config, key) for key in PATH_KEYS)


def _place(config: DictConfig, key: str) -> tuple[Any, str]:
    where, _, name = key.rpartition(".")
    return (OmegaConf.select(config, where) if where else config), name


def _refers(config: DictConfig, key: str) -> bool:
    """Whether a path refers to a key that is no path itself."""
    try:
        where, name = _place(config, key)
    except OmegaConfBaseException:
        return False
    if not isinstance(where, DictConfig) or name not in where.keys():  # noqa: SIM118  (??? too)
        return False
    stated: Any = where._get_node(name)
    return not set(PATH_KEYS).issuperset(REFERENCE.findall(str(stated._value())))


def empty_problems(whole: Mapping[str, Any]) -> Iterator[str]:
    """The paths that are empty, a line each: `$DIR` that is not set, in a command or a file."""
    for key in PATH_KEYS:
        path = value_at(whole, key)
        if isinstance(path, str) and not path.strip():
            yield is_empty(key)


def is_empty(key: str) -> str:
    """What is said of it."""
    return f"{key} is empty, which would be the folder here; type {key}=FOLDER, or leave it out"


def folder_problems(config: DictConfig) -> Iterator[str]:
    """Hydra would make the folder next, and answer with a traceback where it cannot."""
    try:
        folder = Path(config.output_dir).expanduser().absolute()
        there = next(place for place in (folder, *folder.parents) if place.exists())
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is no folder that files can be put into")
        tempfile.TemporaryFile(dir=there).close()
    except OmegaConfBaseException as error:
        yield why_not(error)
    except (OSError, TypeError, RuntimeError) as error:  # no home of ~NAME is a RuntimeError
        reason = str(error).splitlines()[0]
        yield f"output_dir is no folder that can be written: {reason}; try output_dir=outputs"
