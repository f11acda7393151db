"""Arguments that a class does not take, or lacks, found in its source: nothing is imported for it.

Torch takes seconds to import, and a wrong argument is to be told before that.
"""

from __future__ import annotations

import ast
import difflib
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

READ = ("kd_research", "torch")  # whose sources are where their names say, as a person's own are
# What others call the length of a schedule, which is here the fit's.
LENGTHS = ("T_max", "T_0", "total_steps", "total_iters", "epochs", "max_epochs", "num_steps")
OTHERS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_", "groups")  # not its own


def argument_problems(node: Any, at: str = "") -> Iterator[str]:
    """What of a configuration a class does not take, and what it needs besides, a line each.

    Args:
        node: resolved, or a part of it.
        at: its key.
    """
    if isinstance(node, list):
        for index, each in enumerate(node):
            yield from argument_problems(each, f"{at}[{index}]")
    if not isinstance(node, Mapping):
        return
    target = str(node.get("_target_", ""))
    taken = parameters(target)
    needed = [] if "_args_" in node else required(target)
    for name in needed[1:] if node.get("_partial_") else needed:  # the first is given later
        if name not in node:
            key, kind = f"{at}.{name}".lstrip("."), target.rpartition(".")[2]
            yield f"{key} has no value, and {kind} needs one; type +{key}=VALUE"
    for key, value in node.items():
        if key == "dataset":  # read by other functions too
            continue
        name = f"{at}.{key}".lstrip(".")
        if taken is not None and key not in (*taken, *OTHERS):
            yield _told(name, str(key), value, node, taken)
        else:
            yield from argument_problems(value, name)


def _told(name: str, key: str, value: Any, node: Mapping[str, Any], taken: tuple[str, ...]) -> str:
    at, kind = name.rpartition(".")[0], str(node["_target_"]).rpartition(".")[2]
    if at.endswith("scheduler") and key in LENGTHS:
        return length_of_the_fit(name, value)
    close = difflib.get_close_matches(key, taken, n=1)
    hint = f"did you mean {at}.{close[0]}? " if close else ""
    return f"{name} is no argument of {kind}; {hint}there are: {', '.join(taken)}"


def length_of_the_fit(name: str, value: Any) -> str:
    """Said where a schedule is given a length."""
    trainer = f"{name.rpartition('scheduler')[0]}trainer.max_epochs"
    return f"{name}: a schedule is as long as its fit; type {trainer}={value}"


def parameters(target: str) -> tuple[str, ...] | None:
    """The names that a class or a function takes; None: any, or its source does not say."""
    found = _signature(target)
    return None if found is None else tuple(found)


def required(target: str) -> list[str]:
    """Those of them that must be given."""
    return [name for name, needed in (_signature(target) or {}).items() if needed]


@cache
def _signature(target: str) -> dict[str, bool] | None:
    """The names that a class or a function takes, and which of them must be given."""
    module, _, name = target.rpartition(".")
    if not _is_read(module.partition(".")[0]):
        return None
    found = defined(module, name)
    return _taken(*found) if found else None


@cache
def _is_read(package: str) -> bool:
    """Whether its sources are read: those of READ, and what nobody installed."""
    if package in READ:
        return True
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    installed = [Path(path).resolve() for path in sysconfig.get_paths().values()]
    at = Path(spec.origin).resolve() if spec and spec.has_location and spec.origin else None
    if at is None or {"site-packages", "dist-packages"} & set(at.parts):
        return False
    return not any(path in at.parents for path in installed)


def _taken(module: str, node: ast.stmt) -> dict[str, bool] | None:
    if isinstance(node, ast.FunctionDef):
        return _names(node.args)
    if not isinstance(node, ast.ClassDef):
        return None
    if node.decorator_list:  # a dataclass has no __init__
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        alone = not node.bases and "dataclass" in ast.unparse(node.decorator_list[0])
        return {ast.unparse(each.target): each.value is None for each in fields} if alone else None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__"):
            if "overload" in map(ast.unparse, item.decorator_list):
                continue
            names = _names(item.args)
            return names and dict([*names.items()][1:])
    for base in node.bases:
        found = defined(module, base.id) if isinstance(base, ast.Name) else None
        if found and (names := _taken(*found)) is not None:
            return names
    return None


def _names(arguments: ast.arguments) -> dict[str, bool] | None:
    if arguments.kwarg:
        return None
    listed = [*arguments.posonlyargs, *arguments.args]
    without = len(listed) - len(arguments.defaults)
    found = {each.arg: place < without for place, each in enumerate(listed)}
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return found | {each.arg: default is None for each, default in pairs}


def defined(module: str, name: str, depth: int = 5) -> tuple[str, ast.stmt] | None:
    """The module that defines a name, as this module has it, and the definition."""
    path = source(module)
    if path is None or not depth:
        return None
    for node in parsed(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return defined(node.module, alias.name, depth - 1)
    return None


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def source(module: str) -> Path | None:
    """Where a module of a package lies; the package itself is not imported."""
    first, *rest = module.split(".")
    spec = find_spec(first)
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    at = Path(spec.origin).parent.joinpath(*rest)
    return next((p for p in (at / "__init__.py", at.with_suffix(".py")) if p.is_file()), None)
