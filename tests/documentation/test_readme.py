"""README.md: every command works, every method is named, and it stays short."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from documented import ROOT, commands, distil, refused, write_files
from tiny import TINY

from kd_research.commands.new import new
from kd_research.records.record import RECORD_NAME, read_record
from kd_research.report.__main__ import main as report

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
COMMANDS = list(commands(TEXT))
FAST = (*TINY, "teacher=mlp", "teacher.trainer.max_epochs=1", "trainer.max_epochs=1")
SHORT = (*FAST, "sweep.workers=1", "pool._target_=in_process.HerePool", "sweep.n_trials=2")


def words_of(section: str) -> list[list[str]]:
    """The commands of one section."""
    return list(commands(TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type the commands in, with the files that the page shows."""
    write_files(TEXT, tmp_path)
    rows = [f"{i},{i % 3},{i % 5},{i % 7},{'abc'[i % 3]}" for i in range(90)]
    (tmp_path / "my" / "flowers.csv").write_text("\n".join(["a,b,c,d,label", *rows]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_short_and_in_order() -> None:
    assert len(TEXT.split()) <= 900
    assert re.findall(r"^## (.*)", TEXT, re.MULTILINE) == [
        "Why, and when not",
        "Install",
        "60 seconds",
        "An experiment is YAML",
        "Concepts",
        "Methods",
        "Data and models",
        "Your own",
        "Evidence",
        "Scale out",
        "More",
    ]
    near_the_top = TEXT.split("## Why")[0]
    assert "make sweep" in near_the_top
    assert "make test" in near_the_top


def test_every_command_is_of_a_kind_that_is_tried_here() -> None:
    kinds = {" ".join(words[:2]) if words[0] == "make" else words[0] for words in COMMANDS}
    assert kinds == {"make sweep", "make test", "pip", "kd", "python"}


@pytest.mark.parametrize("target", ["sweep", "test"])
def test_make_would_run_what_it_says(target: str) -> None:
    plan = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {"sweep": "kd_research.run -m", "test": "pytest"}[target] in plan


def test_the_extras_are_those_that_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = TEXT.split("| extra |")[1].split("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(project["optional-dependencies"]) - {"dev", "docs"}
    assert project["requires-python"] == ">=3.11"
    for words in COMMANDS:
        if words[0] == "pip":
            assert all((ROOT / w).exists() for w in words if w.endswith(".txt") or w == ".")


def test_the_first_minute(here: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    one, sweep, tables = words_of("60 seconds")
    distil([*one[3:], *FAST], monkeypatch)
    assert "chosen by val_accuracy" in capsys.readouterr().out
    distil([*sweep[3:], *SHORT], monkeypatch)
    assert report(tables[3:]) == 0
    assert "val_accuracy" in capsys.readouterr().out
    assert (here / "outputs" / "sweeps" / "digits" / "report.html").is_file()
    assert len(list((here / "outputs" / "runs").glob(f"*/*/{RECORD_NAME}"))) == 1


def test_the_experiment_in_yaml(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (here / "my" / "sweeps" / "first.yaml").read_text().splitlines()
    assert len(lines) <= 12
    new_folder, sweep = words_of("An experiment is YAML")
    shutil.rmtree(here / "my")
    assert new(new_folder[2:]) == 0
    write_files(TEXT, here)
    distil([*sweep[3:], *SHORT, "sweep.seeds=1", "student.model.width=4"], monkeypatch)
    assert (here / "outputs" / "sweeps" / "first" / "report.html").is_file()


def test_a_loss_a_model_and_data_of_your_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("mine.py", "conf/loss/cosine.yaml", "conf/model/linear.yaml"):
        assert len((here / "my" / path).read_text().splitlines()) <= 8
    short = ("trainer.max_epochs=1", "teacher.trainer.max_epochs=1", "tracking=disabled")
    for number, words in enumerate(words_of("Your own")):
        folder = here / str(number)
        distil([*words[3:], *short, f"hydra.run.dir={folder}"], monkeypatch)
        assert read_record(folder).status == "completed"


@pytest.mark.parametrize(
    "words",
    [words for words in words_of("Scale out") if words[0] == "python"],
    ids=" ".join,
)
def test_what_takes_a_cluster_is_accepted(
    words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words[:3] == ["python", "-m", "kd_research.run"]
    assert refused(words[3:], monkeypatch) == ""


def test_every_method_data_set_and_model_is_named_once() -> None:
    methods = TEXT.split("## Methods")[1].split("## ")[0]
    named = re.findall(r"`(\w+)`", methods.split("|---|---|")[1])
    assert sorted(named) == sorted(path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml"))
