"""What `writable` gives, again and again, of a configuration of which a few keys change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf, ValueNode
from omegaconf.errors import OmegaConfBaseException

from kd_research.configuration.environment import masked_values, names_environment, writable

Live = dict[str, Any]  # key -> the same of a mapping, True where the value is read anew
Path = tuple[str, ...]
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class Changing:
    """A configuration whose values are set from outside; all else is resolved once.

    What refers to one of the keys, `${...}`, however indirectly, is resolved each time, and what
    a resolver gives. Resolving all of it is a quarter of what a sweep needs for a trial.

    Args:
        config: which will be changed.
        keys: those that will be, with dots; each is there.
    """

    def __init__(self, config: DictConfig, keys: Iterable[str]):
        self.config = config
        self.plain = writable(config)
        self.live: Live | None = None  # the environment is read, which `writable` knows to do
        stated: Any = OmegaConf.to_container(config)
        if not names_environment(stated):
            self.live = _tree(_moving(stated, {tuple(key.split(".")) for key in keys}))

    def writable(self) -> dict[str, Any]:
        """The configuration as it is now; shares what never changes with the others."""
        with suppress(OmegaConfBaseException):  # refers to what is missing, which stays as it is
            if self.live is not None:
                return _now(self.config, self.plain, self.live)
        return writable(self.config)


def _moving(stated: Any, keys: set[Path]) -> set[Path]:
    """The keys, and where something stands that refers to one of them, or to more than a name."""
    texts = dict(_references(stated, ()))
    moving = keys | {path for path, text in texts.items() if _names(text) is None}
    while True:
        more = {
            path
            for path, text in texts.items()
            if path not in moving
            and (
                any(_overlap(path, key) for key in keys)  # a key below what is a reference
                or any(_overlap(name, other) for name in _names(text) or () for other in moving)
            )
        }
        if not more:
            return moving
        moving |= more


def _references(node: Any, at: Path) -> Iterator[tuple[Path, str]]:
    """Where a text of a mapping holds `${...}`; a list stands for its items."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _references(value, (*at, str(key)))
    elif isinstance(node, list):
        found = [text for item in node for _, text in _references(item, ())]
        if found:
            yield at, " ".join(found)
    elif isinstance(node, str) and ("${" in node or node == "???"):
        yield at, node


def _names(text: str) -> list[Path] | None:
    """The absolute names that a text refers to; None where it holds anything else in `${}`."""
    names = REFERENCE.findall(text)
    if text.count("${") != len(names) or any(name.startswith(".") for name in names):
        return None
    return [tuple(name.split(".")) for name in names]


def _overlap(one: Path, other: Path) -> bool:
    short = min(len(one), len(other))
    return one[:short] == other[:short]


def _tree(paths: Iterable[Path]) -> Live:
    """The paths as nested mappings; what is below a path that is read whole, is read with it."""
    found: Live = {}
    for path in sorted(paths, key=len):
        node = found
        for key in path[:-1]:
            node = node.setdefault(key, {})
            if node is True:
                break
        else:
            node[path[-1]] = True
    return found


def _now(node: DictConfig, plain: dict[str, Any], live: Live) -> dict[str, Any]:
    found, keys = dict(plain), {str(key): key for key in plain}
    for name, inner in live.items():
        key = keys[name]
        if inner is not True:
            found[key] = _now(node._get_node(key), plain[key], inner)  # type: ignore[arg-type]
            continue
        child: Any = node._get_node(key)
        is_plain = isinstance(child, ValueNode) and not child._is_interpolation()
        value = child._value() if is_plain else node[key]
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        found[key] = masked_values(value)
    return found
