"""Hydra and OmegaConf, unchanged in what they give, in a third of their time: tests compose a lot.

What is saved is work done again: the same file read and parsed, the same interpolation parsed,
copies of a configuration, and what it holds as plain values, that go node by node and field by
field through what only a few nodes need, and imports inside of what is asked of every node.
Optuna's scripts of what its databases once were are likewise read once, not for every study, and
what is installed is not looked through for plug-ins of Lightning for every Trainer.
"""

from __future__ import annotations

import copy
import dataclasses
import io
from abc import ABCMeta
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import attr
import hydra.version
import omegaconf._utils
import omegaconf.base
import quick_defaults
import yaml
from hydra._internal import defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.fabric.utilities import registry
from omegaconf import DictConfig, ListConfig, OmegaConf, SCMode, nodes
from omegaconf.base import Box, Container, ContainerMetadata, Metadata, Node, UnionNode
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue
from optuna.storages._rdb.storage import _VersionManager

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


def _is_missing_value(value: Any) -> bool:
    if isinstance(value, Node):
        value = value._value()
    return isinstance(value, str) and value == "???"


def _is_interpolation(v: Any, strict_interpolation_validation: bool = False) -> bool:
    if isinstance(v, Node):
        v = v._value()
    strict = strict_interpolation_validation
    return isinstance(v, str) and omegaconf._utils._is_interpolation_string(v, strict)


def _get_value(value: Any) -> Any:
    if isinstance(value, nodes.ValueNode):
        return value._value()
    if isinstance(value, Container | UnionNode):
        boxed = value._value()
        if boxed is None or _is_missing_value(boxed) or _is_interpolation(boxed):
            return boxed
        return _get_value(boxed) if isinstance(value, UnionNode) else value
    return value


def is_structured_config(obj: Any) -> bool:
    if type(obj) in SIMPLE or isinstance(obj, Node):
        return False
    return attr.has(obj) or dataclasses.is_dataclass(obj)


def _invalidate_flags_cache(self: Any) -> None:
    held = self.__dict__
    if held["_flags_cache"] is not None:
        held["_flags_cache"] = None
        content = held.get("_content")
        if type(content) is dict and isinstance(self, DictConfig):
            content = content.values()
        elif type(content) is not list or not isinstance(self, ListConfig):
            return
        for node in content:
            node._invalidate_flags_cache()


SIMPLE = (str, int, float, bool, bytes, type(None), dict, list, tuple)
EVERYWHERE = (_is_missing_value, _is_interpolation, _get_value, is_structured_config)
MODULES = ("_utils", "base", "basecontainer", "dictconfig", "listconfig", "nodes", "omegaconf")


def _kinds(kind: type) -> list[type]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]


class _Kind(ABCMeta):
    """Of classes that nothing is registered with: who is an instance is asked a million times."""

    __instancecheck__ = type.__instancecheck__  # type: ignore[assignment]
    __subclasscheck__ = type.__subclasscheck__  # type: ignore[assignment]


_own_content = BaseContainer._to_content


def _plain(
    conf: Any,
    resolve: bool,
    throw_on_missing: bool,
    enum_to_str: bool = False,
    structured_config_mode: SCMode = SCMode.DICT,
) -> Any:
    """Plain values; a node is only looked up where it may be missing or refers to another."""
    how = (resolve, throw_on_missing, enum_to_str, structured_config_mode)
    content = conf.__dict__["_content"]
    if enum_to_str or structured_config_mode != SCMode.DICT or type(content) not in (dict, list):
        return _own_content(conf, *how)

    def value_of(key: Any, node: Any) -> Any:
        held = node.__dict__
        if "_content" in held:
            if type(held["_content"]) in (dict, list):
                return _plain(node, *how)
        elif type(held["_val"]) is not str or not ("${" in held["_val"] or "???" in held["_val"]):
            return held["_val"]
        try:
            node = conf._get_child(key, throw_on_missing_value=throw_on_missing)
            node = node._dereference_node() if resolve else node
        except (MissingMandatoryValue, InterpolationResolutionError) as error:
            conf._format_and_raise(key=key, value=None, cause=error)
        return _plain(node, *how) if "_content" in node.__dict__ else node._value()

    if isinstance(content, dict):
        return {key: value_of(key, node) for key, node in content.items()}
    return [value_of(index, node) for index, node in enumerate(content)]


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


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore
    """OmegaConf's, by libyaml."""

    yaml_implicit_resolvers = omegaconf._utils.get_yaml_loader().yaml_implicit_resolvers
    yaml_constructors = omegaconf._utils.get_yaml_loader().yaml_constructors

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if key.tag == self.DEFAULT_SCALAR_TAG]
        if len(set(keys)) < len(keys):
            raise ValueError("a key twice")
        return super().construct_mapping(node, deep=deep)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    found = yaml.load(text, Loader=_Loader)
    return OmegaConf.create(found) if isinstance(found, dict) else _load(io.StringIO(text))


def _interpolation_map(overrides: Any, defaults: Any, self_added: bool) -> DictConfig | None:
    """Made of all choices for every file, and looked into where a default is an interpolation."""
    needed = any(each.is_interpolation() for each in defaults)
    return _map(overrides, defaults, self_added) if needed else None


_parse_rule = OverridesParser.parse_rule
_rules: dict[tuple[str, str], Any] = {}


def _rule(self: OverridesParser, s: str, rule_name: str) -> Any:
    """What a text says; what is wrong in it is told anew."""
    if (s, rule_name) not in _rules:
        _rules[s, rule_name] = _parse_rule(self, s, rule_name)
    return copy.deepcopy(_rules[s, rule_name])


_make_script = _VersionManager._create_alembic_script
_scripts: list[Any] = []


def _script(self: _VersionManager) -> Any:
    """The scripts are Optuna's own, whatever database is asked about."""
    if not _scripts:
        _scripts.append(_make_script(self))
    return _scripts[0]


_parse = lru_cache(maxsize=4096)(omegaconf.base.parse)  # a tree that is read alone
PARTS: list[tuple[Any, str, Any, Any]] = [  # owner, name, the quick one, the library's own
    (owner, name, quick, type(owner) if name == "__class__" else vars(owner).get(name))
    for owner, name, quick in (
        (omegaconf.base, "parse", _parse),
        (omegaconf._utils, "parse", _parse),
        (Metadata, "__deepcopy__", _copied_metadata),
        (ContainerMetadata, "__deepcopy__", _copied_metadata),
        *((kind, "__deepcopy__", _copied_value) for kind in VALUES),
        (DictConfig, "__deepcopy__", _copied_dict),
        (ListConfig, "__deepcopy__", _copied_list),
        (Box, "_re_parent", _re_parent),
        (BaseContainer, "_to_content", staticmethod(_plain)),
        (Container, "_invalidate_flags_cache", _invalidate_flags_cache),
        *((kind, "__class__", _Kind) for kind in _kinds(Node)),
        *(
            (module, quick.__name__, quick)
            for module in (getattr(omegaconf, name) for name in MODULES)
            for quick in EVERYWHERE
            if hasattr(module, quick.__name__)
        ),
        (_VersionManager, "_create_alembic_script", _script),
        (OmegaConf, "load", staticmethod(_loaded)),
        (OverridesParser, "parse_rule", _rule),
        (registry, "entry_points", lru_cache(registry.entry_points)),
        (hydra.version, "_get_version", lru_cache(hydra.version._get_version)),
        (defaults_list, "_create_interpolation_map", _interpolation_map),
        *quick_defaults.PARTS,
    )
]
