"""A person's own folder: conf/, and beside it sweeps/ and modules, used without a fork.

It is named by `--config-dir FOLDER/conf` or `hydra.searchpath=[file://FOLDER/conf]`, wherever these
stand on the command line. Its losses, models, data sets and sweeps are choices by name like those
of the package, and its modules can be imported: in this process, and in that of every run, whose
config.yaml says where they are (`import_from`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
}
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
SCHEME = "file://"

_folders: list[Path] = []


def split(arguments: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The flags of a command line, each with its value, and its overrides."""
    flags: list[list[str]] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        item = rest.pop(0)
        if not item.startswith("-"):
            overrides.append(item)
            continue
        name, equals, value = item.partition("=")
        flags.append([name, value] if equals else [name])
        takes = name in WITH_VALUE or (name in ("--info", "-i") and rest[:1] and rest[0] in INFO)
        if takes and not equals and rest:
            flags[-1].append(rest.pop(0))
    return flags, overrides


def take(arguments: Sequence[str]) -> list[str]:
    """Note the own folders that a command line names; what is wrong with them, a line each."""
    _folders.clear()
    problems = []
    for given in _named(*split(arguments)):
        folder = Path(given.removeprefix(SCHEME)).expanduser().resolve()
        if not folder.is_dir():
            problems.append(
                f"there is no folder {given} to take configuration from; make one that is ready "
                "to run by: kd new FOLDER, then type --config-dir FOLDER/conf"
            )
        elif folder not in _folders:
            _folders.append(folder)
    add_to_path(import_from())
    return problems


def _named(flags: Sequence[Sequence[str]], overrides: Iterable[str]) -> list[str]:
    found = [
        value for flag, *values in flags if flag in ("--config-dir", "-cd") for value in values
    ]
    for text in overrides:
        if not text.lstrip("+").startswith("hydra.searchpath="):
            continue
        try:
            stated: Any = OverridesParser.create().parse_override(text).value()
        except HydraException:
            continue  # the overrides' own check tells it
        places = stated if isinstance(stated, list) else [stated]
        found += [str(place) for place in places if not str(place).startswith("pkg://")]
    return found


def conf_folders() -> list[Path]:
    """The own folders of configuration, absolute, in the order given."""
    return list(_folders)


def import_from() -> list[str]:
    """The folders beside them, which hold own modules and sweeps/."""
    return [str(folder.parent) for folder in _folders]


def add_to_path(folders: Iterable[str]) -> None:
    """Let own modules be imported; what is installed goes before them."""
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)
