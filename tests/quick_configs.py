"""Hydra and OmegaConf, unchanged in what they give, in half their time: tests compose by hundreds.

What is saved is work done again: the same file read and parsed, the same interpolation parsed, and
copies of a configuration that go through `copy.deepcopy` node by node and field by field.
"""

from __future__ import annotations

import copy
import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra.version
import omegaconf._utils
import omegaconf.base
from hydra._internal import defaults_list
from omegaconf import DictConfig, ListConfig, OmegaConf, nodes
from omegaconf.base import Box, ContainerMetadata, Metadata, Node

VALUES = (
    *(nodes.AnyNode, nodes.StringNode, nodes.PathNode, nodes.IntegerNode, nodes.BytesNode),
    *(nodes.FloatNode, nodes.BooleanNode, nodes.EnumNode),
)


def install() -> None:
    """For this process, and for its forks."""
    for owner, name, quick, _ in PARTS:
        setattr(owner, name, quick)


@contextmanager
def left_out() -> Iterator[None]:
    """The libraries as they are."""
    for owner, name, _, own in PARTS:
        setattr(owner, name, own) if own else delattr(owner, name)
    try:
        yield
    finally:
        install()


def _copied_metadata(self: Metadata, memo: dict[int, Any]) -> Metadata:
    found = object.__new__(type(self))
    held = found.__dict__
    held.update(self.__dict__)
    if held["flags"] is not None:
        held["flags"] = dict(held["flags"])
    cache = held["resolver_cache"]
    held["resolver_cache"] = copy.deepcopy(cache, memo) if cache else defaultdict(dict)
    return found


def _copied_value(self: nodes.ValueNode, memo: dict[int, Any]) -> nodes.ValueNode:
    found: nodes.ValueNode = object.__new__(type(self))
    held = found.__dict__
    held.update(self.__dict__)
    held["_metadata"] = _copied_metadata(held["_metadata"], memo)
    held["_flags_cache"] = None
    return found


def _copied_container(self: Any, memo: dict[int, Any]) -> Any:
    """Without its content; its parent is the same one, as with any node of OmegaConf."""
    found = object.__new__(type(self))
    held = found.__dict__
    held.update(self.__dict__)
    held["_metadata"] = _copied_metadata(held["_metadata"], memo)
    if held["_flags_cache"] is not None:
        held["_flags_cache"] = dict(held["_flags_cache"])
    return found


def _copied_dict(self: DictConfig, memo: dict[int, Any]) -> DictConfig:
    found: DictConfig = _copied_container(self, memo)
    if isinstance(content := found.__dict__["_content"], dict):
        found.__dict__["_content"] = {k: _child(v, found, memo) for k, v in content.items()}
    return found


def _copied_list(self: ListConfig, memo: dict[int, Any]) -> ListConfig:
    found: ListConfig = _copied_container(self, memo)
    if isinstance(content := found.__dict__["_content"], list):
        found.__dict__["_content"] = [_child(each, found, memo) for each in content]
    return found


def _child(node: Any, parent: Any, memo: dict[int, Any]) -> Any:
    found = memo.get(id(node))
    if found is None:
        found = memo[id(node)] = node.__deepcopy__(memo)
    found.__dict__["_parent"] = parent
    return found


def _re_parent(self: Any) -> None:
    """Every node below gets its parent and forgets its flags, in one walk."""
    content = self.__dict__["_content"]
    if isinstance(content, dict):
        content = content.values()
    elif not isinstance(content, list):
        content = [content] if isinstance(content, Node) else []
    for node in content:
        if node is not None:
            held = node.__dict__
            held["_parent"], held["_flags_cache"] = self, None
            if "_content" in held:
                _re_parent(node)


_load = staticmethod(OmegaConf.load)
_map = defaults_list._create_interpolation_map


def _loaded(file_: Any) -> Any:
    """What a text says is known by the text; what is wrong in it is told with its file's name."""
    try:
        text = file_.read() if hasattr(file_, "read") else Path(file_).read_text("utf-8")
        return copy.deepcopy(_parsed(text))
    except Exception:
        if hasattr(file_, "seek"):
            file_.seek(0)
        return _load(file_)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    return _load(io.StringIO(text))


def _interpolation_map(overrides: Any, defaults: Any, self_added: bool) -> DictConfig | None:
    """Made of all choices for every file, and looked into where a default is an interpolation."""
    needed = any(each.is_interpolation() for each in defaults)
    return _map(overrides, defaults, self_added) if needed else None


_parse = lru_cache(maxsize=4096)(omegaconf.base.parse)  # a tree that is read alone
PARTS: list[tuple[Any, str, Any, Any]] = [  # owner, name, the quick one, the library's own
    (owner, name, quick, vars(owner).get(name))
    for owner, name, quick in (
        (omegaconf.base, "parse", _parse),
        (omegaconf._utils, "parse", _parse),
        (Metadata, "__deepcopy__", _copied_metadata),
        (ContainerMetadata, "__deepcopy__", _copied_metadata),
        *((kind, "__deepcopy__", _copied_value) for kind in VALUES),
        (DictConfig, "__deepcopy__", _copied_dict),
        (ListConfig, "__deepcopy__", _copied_list),
        (Box, "_re_parent", _re_parent),
        (OmegaConf, "load", staticmethod(_loaded)),
        (hydra.version, "_get_version", lru_cache(hydra.version._get_version)),
        (defaults_list, "_create_interpolation_map", _interpolation_map),
    )
]
