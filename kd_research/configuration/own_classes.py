"""What the classes of this package say of themselves, read from their files, importing none."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "kd_research"


def needs_teacher(loss: Mapping[str, Any]) -> bool:
    """Whether a loss of ours asks the teacher, as its class says; of others nothing is known."""
    file, name = _file_of(loss)
    return bool(file and name in classes(file)) and not states(loss, "needs_teacher = False")


def states(loss: Mapping[str, Any], text: str) -> bool:
    """Whether the class of a loss of ours has this statement."""
    file, name = _file_of(loss)
    return file is not None and name in _stating(file, text)


def _file_of(loss: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The file of a loss of ours, None of others, and the class's name."""
    module, _, name = str(loss.get("_target_", "")).rpartition(".")
    if not module.startswith(f"{PACKAGE}.losses."):
        return None, name
    file = Path(__file__).parents[1].joinpath(*module.split(".")[1:]).with_suffix(".py")
    return file, name


@cache
def _stating(file: Path, text: str) -> frozenset[str]:
    """The classes of a file that have this statement."""
    return frozenset(
        node.name
        for node in _tree(file).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(part) == text for part in node.body)
    )


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def classes(file: Path) -> list[str]:
    """The classes and functions of a file."""
    defined = (ast.ClassDef, ast.FunctionDef)
    return [node.name for node in _tree(file).body if isinstance(node, defined)]
