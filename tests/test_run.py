"""The command line, as a person types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import warm
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from omegaconf import open_dict
from sweep_commands import PATHS
from tiny import TINY, composed

from kd_research import run
from kd_research.configuration.overrides import explain
from kd_research.hydra_plugin import CheckFirst
from kd_research.records.record import CONFIG_NAME, RECORD_NAME, read_record

GET_MODE = Hydra.get_mode  # while tests are collected nothing has replaced it


def test_the_folder_of_a_home_is_no_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It became ./~, beside what the rest of the run wrote into the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = composed(*TINY)
    with open_dict(config):
        config.hydra = {"run": {"dir": "~/mine"}}
    CheckFirst().on_run_start(config)
    assert config.hydra.run.dir == str(tmp_path / "mine")


def command(*arguments: str, cwd: Path, run: Any = warm.run) -> subprocess.CompletedProcess[str]:
    return run(  # type: ignore[no-any-return]
        [sys.executable, "-m", "kd_research.run", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )


def test_one_run_from_any_directory(outputs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "here"
    overrides = [*TINY, f"output_dir={outputs}", f"hydra.run.dir={run_dir}", "loss=logit_mse"]
    done = command(*overrides, cwd=tmp_path, run=subprocess.run)  # with the imports' warnings
    assert done.returncode == 0, done.stderr
    assert "chosen by val_accuracy" in done.stdout
    assert "Warning" not in done.stderr
    record = read_record(run_dir)
    assert record.config["loss"]["terms"].keys() == {"logit_mse"}
    assert (run_dir / CONFIG_NAME).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["here"], "nothing is written elsewhere"
    before = (run_dir / RECORD_NAME).read_bytes()
    again = command(*overrides, cwd=tmp_path)
    assert again.returncode == 1
    assert "already holds a run" in again.stderr
    assert (run_dir / RECORD_NAME).read_bytes() == before


def test_help_and_cfg_read_well(tmp_path: Path) -> None:
    shown = command("--help", cwd=tmp_path).stdout
    for expected in (
        "knowledge distillation",
        "python -m kd_research.run -m",
        "\nloss: ",
        "\nstudent: ",
        "\ndataset: ",
        "\nsweeps/papers: ",
    ):
        assert expected in shown
    config = command("--cfg", "job", "loss=prob_mse", "loss.temperature=2", cwd=tmp_path)
    assert "temperature: 2" in config.stdout
    assert "kd_research.losses.logits.ProbabilityMSE" in config.stdout
    resolved = command("--cfg", "job", "--resolve", "loss.lambda=0.25", cwd=tmp_path)
    assert "ce_weight: 0.75" in resolved.stdout
    assert "${" not in resolved.stdout.partition("tracking:")[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (["loss.temperature=4", "student=cnn", "loss=ce,kd", "+a=1"], []),
        (
            ["loss.temprature=3", "studnt=mlp"],
            ["unknown key loss.temprature; did you mean loss.temperature?", "unknown key studnt"],
        ),
        (
            ["loss=kdd", "teacher=mpl", "student.model.wdth=3"],
            [
                "there is no loss 'kdd'; did you mean loss=kd? choices: ",
                "there is no teacher 'mpl'; did you mean teacher=mlp?",
                "unknown key student.model.wdth; did you mean student.model.width?",
            ],
        ),
        (
            ["-m", "student.model.widht=4,8", "loss.temprature=interval(1,20)"],
            [
                "unknown key student.model.widht; did you mean student.model.width?",
                "unknown key loss.temprature; did you mean loss.temperature?",
            ],
        ),
        (["-m", "loss=kd,dkd", "loss.temprature=interval(1,20)"], []),  # for the plan to try
        (["-m", "loss=kd,nope"], ["there is no loss 'nope'"]),
        (["dataset=hub", "dataset.num_classes=7", "dataset.input_shape=[1,8,8]"], []),  # were ???
        (["loss.temperature=choice(1"], ["loss.temperature=choice(1: "]),
        (
            ["scheduler.T_max=3"],
            ["scheduler.T_max: a schedule is as long as its fit; type trainer"],
        ),
        (["+x={a: 1}", "x.a=2"], []),  # what the command adds is there for the rest of it
        (["output_dir=/proc/none"], ["output_dir is no folder that can be written: "]),
        (["sweep.objectives={vall: maximize}"], ["sweep.objectives has no vall; +sweep"]),
        (["-m", "+sweeps=papers/crd_cifar10"], []),
        (["-m", "+sweeps=papers/crd"], ["there is no sweeps 'papers/crd'; did you mean +sweeps"]),
        (["-m", "sweeps=papers/crd_cifar10"], ["Could not override 'sweeps'. "]),
    ],
)
def test_wrong_overrides_are_explained_together(overrides: list[str], messages: list[str]) -> None:
    found = explain(overrides)
    assert len(found) == len(messages), found
    for message in messages:
        assert any(line.startswith(message) for line in found), (message, found)


def test_bad_input_stops_before_anything_is_written(tmp_path: Path) -> None:
    done = command(
        f"output_dir={tmp_path / 'outputs'}",
        "loss.temperature=-1",
        "loss.lambda=1.5",
        "teacher.model.num_classes=7",
        "teacher.checkpoint=/nowhere.pt",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 4
    assert lines[0] == "loss.temperature must be > 0, got -1; try loss.temperature=4"
    assert lines[1] == "loss.lambda must be from 0 to 1, got 1.5; try loss.lambda=0.9"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("typed", "times"), [([], 2), (["hydra.mode=RUN"], 3)])
def test_hydra_composes_no_more_often_than_it_must(
    typed: list[str], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once to explain what is wrong, once to run; a third time where `hydra.mode` may be set."""
    composed: list[Any] = []
    load = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(
        ConfigLoaderImpl,
        "load_configuration",
        lambda self, *args, **named: composed.append(args) or load(self, *args, **named),
    )
    monkeypatch.setattr(Hydra, "get_mode", GET_MODE)  # another test's command may have replaced it
    monkeypatch.setattr(sys, "argv", ["run", "num_threads=0", *typed])
    with pytest.raises(SystemExit, match="num_threads must be"):
        run.main()
    assert len(composed) == times


def test_an_interrupt_while_it_imports_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), PATHS])}
    command = [sys.executable, "-m", "kd_research.run"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
