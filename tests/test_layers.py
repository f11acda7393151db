"""Who may import what: the shape of the package, kept."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kd_research"
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("wandb", ("tracking",)),
        ("optuna", ("sweeper", "space", "study", "workers")),
        (
            "hydra",
            ("run", "compose", "hydra_plugin", "plan", "space", "sweep_files")
            + ("sweeper", "parts", "teacher", "chain", "launchers"),
        ),
    ],
)
def test_only_these_import(package: str, allowed: tuple[str, ...]) -> None:
    users = {
        inside(path)
        for path in FILES
        if any(name.split(".")[0] == package for name in imports(path))
    }
    strangers = {user for user in users if user.removesuffix(".py").split("/")[0] not in allowed}
    assert users, f"nobody imports {package} any more: change this test"
    assert not strangers


@pytest.mark.parametrize("folder", ["losses", "models"])
def test_losses_and_models_stand_alone(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        for name in imports(path):
            if name.startswith("kd_research"):
                assert name.startswith((f"kd_research.{folder}", "kd_research.interfaces")), path
            else:
                assert name.split(".")[0] in {"torch", *sys.stdlib_module_names}, (path, name)


@pytest.mark.parametrize(
    "module", ["run", "report", "record", "config", "config_checks", "pareto", "plan"]
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
