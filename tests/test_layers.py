"""Who may import what: the shape of the package, kept."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kd_research"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the ground up. A room imports from the floors below its own; within a room files form no
# circle. What stands beside another room on one floor does not know it.
FLOORS = (
    ("records", "interfaces"),
    ("losses", "models", "generation", "configuration"),
    ("pools", "report"),
    ("data", "tracking"),
    ("soft_targets", "evaluation", "sweep", "transfer"),
    ("training", "hydra_plugin"),
    ("teacher", "run"),
    ("trial",),
    ("export", "remeasure", "generate"),
    ("commands",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS, 1) for room in rooms}


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, also inside functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            assert node.module
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def module_of(path: Path) -> str:
    parts = ("kd_research", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def graph() -> dict[str, set[str]]:
    """Module -> the package's own that it imports."""
    return {name: (imports(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_file_is_in_a_room() -> None:
    assert {room(name) for name in MODULES} - {""} == FLOOR.keys()
    flat = {path.name for path in PACKAGE.glob("*.py")}
    commands = {"__main__.py", "run.py", "remeasure.py", "generate.py"}
    assert flat == commands | {"__init__.py", "hydra_plugin.py", "interfaces.py"}


@pytest.mark.parametrize("name", sorted({room(name) for name in MODULES} - {""}))
def test_a_room_says_what_lives_there(name: str) -> None:
    path = PACKAGE / name / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text())) if path.exists() else "a file"
    assert text
    assert text.split("\n\n")[0].rstrip().endswith((".", "file"))


def test_no_arrow_goes_up() -> None:
    wrong = [
        f"{name} (floor {FLOOR[room(name)]}) imports {other} (floor {FLOOR[room(other)]})"
        for name, others in sorted(graph().items())
        for other in sorted(others)
        if room(name) and room(other) and room(name) != room(other)
        if FLOOR[room(other)] >= FLOOR[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_files() -> None:
    # A package's __init__ is run before its files, but what a file takes from it stands already.
    circle: list[str] = []
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert not circle, " -> ".join(circle)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("wandb", {"tracking"}),
        ("optuna", {"sweep", "pools"}),
        (
            "hydra",
            {"run", "hydra_plugin", "configuration", "sweep", "pools", "trial", "teacher"},
        ),
    ],
)
def test_only_these_import(package: str, allowed: set[str]) -> None:
    users = {
        room(name)
        for name, path in MODULES.items()
        if any(each.split(".")[0] == package for each in imports(path))
    }
    assert users, f"nobody imports {package} any more: change this test"
    assert users <= allowed


@pytest.mark.parametrize("folder", ["losses", "models", "generation"])
def test_losses_and_models_stand_alone(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        for name in imports(path):
            if name.startswith("kd_research"):
                assert name.startswith((f"kd_research.{folder}", "kd_research.interfaces")), path
            else:
                assert name.split(".")[0] in {"torch", *sys.stdlib_module_names}, (path, name)


@pytest.mark.parametrize(
    "module",
    ["run", "report", "records.record", "configuration.config", "configuration.checks"]
    + ["report.pareto", "sweep.plan"],
)
def test_light_modules_import_neither_torch_nor_wandb(module: str) -> None:
    code = (
        f"import kd_research.{module}, sys; "
        "print(*[name for name in ('torch', 'wandb', 'lightning') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_entry_waits_with_what_only_a_sweep_needs() -> None:
    code = (
        "import kd_research.run, sys; print(*({'optuna', 'pandas', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_files_stay_small() -> None:
    long = {inside(path): lines for path in FILES if (lines := path.read_text().count("\n")) > 300}
    assert not long, "a file that grows past about 250 lines is asking to be two"
