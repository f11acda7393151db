"""Values from the environment, `${oc.env:NAME}`: used, and never written.

A file gets the reference, not what it stands for: a run's folder reads its own environment, and
who receives the folder does not get ours. A report resolves none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

from kd_research.records.printable import masked

_watched: ContextVar[list[str] | None] = ContextVar("watched", default=None)
_NONE = object()


def register() -> None:
    """Have OmegaConf's own resolver say when it was asked."""

    def read(name: str, default: Any = _NONE) -> Any:
        asked = _watched.get()
        if asked is not None:
            asked.append(name)
        return oc.env(name) if default is _NONE else oc.env(name, default)

    OmegaConf.register_new_resolver("oc.env", read, replace=True)


@contextmanager
def _watching() -> Iterator[list[str]]:
    asked: list[str] = []
    token = _watched.set(asked)
    try:
        yield asked
    finally:
        _watched.reset(token)


def writable(config: DictConfig) -> dict[str, Any]:
    """The configuration as it may be written: resolved, but for what the environment holds.

    Addresses have lost their passwords. Plain containers, whose `${oc.env:NAME}` are texts.
    """
    found: Any
    if names_environment(OmegaConf.to_container(config._get_root())):
        found = _writable(config)
    else:  # the same, eight times as fast
        found = masked_values(OmegaConf.to_container(config, resolve=True))
    return found  # type: ignore[no-any-return]


def names_environment(plain: Any) -> bool:
    """Whether something in plain, unresolved containers is read from the environment."""
    if isinstance(plain, dict):
        return any(map(names_environment, plain.values()))
    if isinstance(plain, list):
        return any(map(names_environment, plain))
    return isinstance(plain, str) and "${" in plain and "oc.env" in plain


def masked_values(plain: Any) -> Any:
    """Plain containers whose addresses have lost their passwords."""
    if isinstance(plain, dict):
        return {key: masked_values(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [masked_values(value) for value in plain]
    return masked(plain) if isinstance(plain, str) else plain


def _writable(node: Any) -> Any:
    if isinstance(node, DictConfig):
        return {key: _child(node, key) for key in node.keys()}  # noqa: SIM118  (values unread)
    if isinstance(node, ListConfig):
        return [_child(node, index) for index in range(len(node))]
    return masked(node) if isinstance(node, str) else node


def _child(parent: Any, key: Any) -> Any:
    if OmegaConf.is_missing(parent, key):
        return "???"
    with _watching() as asked:
        value = parent[key]
    if asked:
        return str(parent._get_node(key)._value())
    if isinstance(value, DictConfig | ListConfig) and value._is_none():
        return None
    return _writable(value)
