"""The package without its checkout: installed from a wheel, with a person's own folder beside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import pytest
import warm
from packaging.specifiers import SpecifierSet

from kd_research.commands import MODULES
from kd_research.commands.new import TEMPLATE, new
from kd_research.configuration.own_folders import split
from kd_research.records.record import read_record

ROOT = Path(__file__).resolve().parents[1]
SHORT = ("tracking=disabled", "trainer.max_epochs=2", "teacher.trainer.max_epochs=2")
CHOSEN = ("dataset=mine", "teacher=tiny", "student=tiny", "loss=mine")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of an environment that has the wheel of this checkout, and our dependencies."""
    place = tmp_path_factory.mktemp("installed")
    source = place / "source"
    wanted = ("kd_research", "conf", "sweeps")
    for name in wanted:
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    try:  # torch needs setuptools, too: mostly there is one, as pyproject.toml wants it
        own = int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        own = False
    here = ["--no-build-isolation", "--check-build-dependencies"] if own else []
    build = [*pip, "wheel", "--no-deps", *here, "--wheel-dir", str(place), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("setuptools, which builds the wheel, cannot be had here")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    (wheel,) = place.glob("*.whl")
    home = place / "environment"
    venv.create(home, with_pip=False, symlinks=True)
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / name / "site-packages"
    install = [*pip, "--python", str(home / "bin" / "python"), "install", "--no-deps"]
    subprocess.run([*install, "--no-compile", str(wheel)], check=True)
    # What we depend on is taken from the environment of the tests; the package itself is not.
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(theirs))
    return home / "bin"


def run(command: list[str], cwd: Path, real: bool = False) -> subprocess.CompletedProcess[str]:
    """`kd ...` of the installed package; but for `real`, the module that it becomes, warm."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    kd, word, *more = command
    if word in MODULES and not real:
        python = str(Path(kd).with_name("python"))
        command = [python, "-m", MODULES[word][0], *more]
    how = warm.run if command[1] == "-m" else subprocess.run
    return how(command, cwd=cwd, capture_output=True, text=True, env=clean)


def test_the_package_itself_is_kd(tmp_path: Path) -> None:
    alone = subprocess.run(
        [sys.executable, "-m", "kd_research"], capture_output=True, text=True, cwd=tmp_path
    )
    assert alone.returncode == 0
    told = [line.split()[1] for line in alone.stdout.splitlines() if line.startswith("  kd ")]
    assert told == [*MODULES, "new"]
    assert [*tmp_path.iterdir()] == []


def completed(sweep: Path) -> int:
    counts = json.loads((sweep / "summary.json").read_text())["counts"]
    assert set(counts.values()) <= {0, counts["completed"]}
    return int(counts["completed"])


def test_a_wheel_distils_and_sweeps_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    kd = str(installed / "kd")
    where = [str(installed / "python"), "-c", "import kd_research; print(kd_research.__file__)"]
    assert str(installed.parent) in run(where, tmp_path).stdout, "not the checkout's"
    tiny = ("student.model.width=8", "student.model.depth=1", "teacher.model.width=4")
    done = run([kd, "run", *SHORT, *tiny], tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "outputs" / "runs").glob("*/*/record.json")
    assert read_record(record.parent).status == "completed"
    done = run([kd, "run", "-m", *SHORT, "sweep.n_trials=2", "sweep.workers=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "sweeps" / "digits"
    assert completed(folder) == 2
    module = [str(installed / "python"), "-m", "kd_research.report", str(folder)]
    real = run([kd, "report", str(folder)], tmp_path, real=True)
    assert run(module, tmp_path).stdout == real.stdout != ""
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


@pytest.mark.parametrize("by", ["--config-dir", "hydra.searchpath"])
def test_own_parts_are_choices_by_name(installed: Path, tmp_path: Path, by: str) -> None:
    kd, folder = str(installed / "kd"), tmp_path / "own"
    assert run([kd, "new", str(folder)], tmp_path).returncode == 0
    if by == "--config-dir":
        flags = ["--config-dir", "own/conf"]
    else:
        flags = [f"hydra.searchpath=[file://{folder}/conf]"]
    one = [kd, "run", CHOSEN[0], *flags, *CHOSEN[1:], *SHORT]
    if by == "--config-dir":
        check_a_run_and_its_repetition(kd, one, tmp_path)
    else:  # it composes the same; its sweep trains
        shown = run([*one, "--cfg", "job"], tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "_target_: mine.Tiny" in shown.stdout
    sweep = ["+sweeps=mine", "-m", *SHORT, "sweep.n_trials=2", "sweep.workers=1"]
    done = run([kd, "run", *flags, *sweep], tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert completed(tmp_path / "outputs" / "sweeps" / "mine") == 2
    wrong = run([kd, "run", "student=tny", *flags, "loss=mien", "dataset=mines"], tmp_path)
    for hint in ("did you mean loss=mine?", "did you mean student=tiny?", "dataset=mine?"):
        assert hint in wrong.stderr
    assert wrong.returncode == 1


def check_a_run_and_its_repetition(kd: str, command: list[str], tmp_path: Path) -> None:
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "outputs" / "runs").glob("*/*/record.json")
    config = read_record(record.parent).config
    assert config["student"]["model"]["_target_"] == "mine.Tiny"
    rerun = [kd, "trial", str(record.parent)]
    assert run(rerun, Path("/")).returncode == 2, "a received folder runs nothing unknown"
    again = run([*rerun, "--trust"], Path("/"))
    assert again.returncode == 0, again.stderr


def test_a_folder_that_is_not_there_is_told(installed: Path, tmp_path: Path) -> None:
    missing = [str(installed / "kd"), "run", "--config-dir", "none/conf"]
    done = run(missing, tmp_path, real=True)
    assert done.returncode == 1
    assert done.stderr.startswith("there is no folder none/conf")
    assert not list(tmp_path.iterdir())


def test_a_new_folder_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("precious")
    assert new([str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text() == "precious"


def test_each_example_is_short() -> None:
    for path in TEMPLATE.rglob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 10, path


def test_flags_may_stand_anywhere() -> None:
    flags, overrides = split(["a=1", "-m", "b=2", "--cfg", "job", "c=3", "--config-dir=x", "-i"])
    assert flags == [["-m"], ["--cfg", "job"], ["--config-dir", "x"], ["-i"]]
    assert overrides == ["a=1", "b=2", "c=3"]


def test_what_is_pinned_is_for_every_python_3_11() -> None:
    """pip looks for a way out for ever where a pin needs a later one than the machine has."""
    needed = {found.name: found.metadata["Requires-Python"] for found in distributions()}
    assert [n for n, at in needed.items() if at and "3.11.0" not in SpecifierSet(at)] == []
