"""Arguments that a class does not take, found in its source: nothing is imported for it.

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
    """What of a configuration is given to a class that does not take it, a line each.

    Args:
        node: resolved, or a part of it.
        at: its key.
    """
    if isinstance(node, list):
        for index, each in enumerate(node):
            yield from argument_problems(each, f"{at}[{index}]")
    if not isinstance(node, Mapping):
        return
    taken = parameters(str(node.get("_target_", "")))
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


@cache
def parameters(target: str) -> tuple[str, ...] | None:
    """The names that a class or a function takes; None: any, or its source does not say."""
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


def _taken(module: str, node: ast.stmt) -> tuple[str, ...] | None:
    if isinstance(node, ast.FunctionDef):
        return _names(node.args)
    if not isinstance(node, ast.ClassDef) or node.decorator_list:  # a dataclass has no __init__
        return None
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__"):
            names = _names(item.args)
            return names[1:] if names else None
    for base in node.bases:
        found = defined(module, base.id) if isinstance(base, ast.Name) else None
        if found and (names := _taken(*found)) is not None:
            return names
    return None


def _names(arguments: ast.arguments) -> tuple[str, ...] | None:
    if arguments.kwarg:
        return None
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return tuple(each.arg for each in listed)


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
