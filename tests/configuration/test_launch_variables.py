"""Variables of launchers, set or left over: one process, or a refusal in a line; never silence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import warm
from omegaconf import OmegaConf
from sweep_commands import PATHS
from tiny import TINY

from kd_research.configuration.config import ConfigError, save
from kd_research.configuration.ranks import (
    NAMES,
    be_one_process,
    clear,
    is_first_process,
    take_rank,
)
from kd_research.records.record import CONFIG_NAME, RECORD_NAME, read_record
from kd_research.trial import run as trial

LEFT_OVER = [
    {"RANK": "0", "LOCAL_RANK": "0"},
    {"WORLD_SIZE": "4", "MASTER_ADDR": "far", "MASTER_PORT": "1"},
    {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"},
    {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"},
    {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"},
    {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "PMI_SIZE": "1"},
    {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    {"PMI_RANK": "0", "PMI_SIZE": "1", "PMIX_RANK": "0"},
]
ONE_OF_MANY = [
    ({"LOCAL_RANK": "1"}, "torchrun"),
    ({"NODE_RANK": "1"}, "torchrun"),
    ({"RANK": "1", "WORLD_SIZE": "2"}, "torchrun"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "torchrun"),
    ({"SLURM_PROCID": "1"}, "srun"),
    ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}, "srun"),
    ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "mpirun"),
    ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "PMI"),
    ({"PMIX_RANK": "1"}, "PMI"),
]
SRUN = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2"}
SRUN |= {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}


@pytest.fixture(autouse=True)
def _none_to_begin_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in NAMES:  # set first, so that the end of the test brings back what there was
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    clear()  # Lightning, too, was told a rank: its loggers would write nothing in later tests


def said(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", LEFT_OVER)
def test_what_is_left_over_is_cleared(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said(variables, monkeypatch)
    be_one_process()
    assert not {*NAMES} & os.environ.keys()
    assert is_first_process()
    said(variables, monkeypatch)
    take_rank(OmegaConf.create({"trainer": {"devices": 2}}))  # Lightning starts the other one
    assert not {*NAMES} & os.environ.keys()


@pytest.mark.parametrize(("variables", "launcher"), ONE_OF_MANY)
def test_one_of_many_is_refused_in_a_line(
    variables: dict[str, str], launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(variables, monkeypatch)
    config = OmegaConf.create({"trainer": {"devices": 1}})
    for refused in (be_one_process, lambda: take_rank(config)):
        with pytest.raises(ConfigError) as caught:
            refused()
        (line,) = caught.value.problems
        assert "\n" not in line
        assert f"in the environment: {launcher} started" in line
        name, value = next(iter(variables.items()))
        assert f"{name}={value}" in line
        assert f"unset {name}" in line


def test_a_folder_takes_the_ranks_that_its_configuration_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = OmegaConf.create({"trainer": {"devices": 2, "strategy": "ddp"}})
    torchrun = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    said(torchrun, monkeypatch)
    with pytest.raises(ConfigError, match="MASTER_ADDR and MASTER_PORT"):
        take_rank(config)
    said(meeting, monkeypatch)
    take_rank(config)
    assert not is_first_process()
    assert {name: os.environ[name] for name in meeting} == meeting
    assert "TORCHELASTIC_RUN_ID" not in os.environ, "Lightning would refuse the teacher's device"
    config.trainer.devices = 4
    with pytest.raises(ConfigError, match=r"trainer.devices=4 asks for 4: start that many"):
        take_rank(config)


def test_srun_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    said(SRUN, monkeypatch)
    take_rank(OmegaConf.create({"trainer": {"devices": 2}}))
    found = {name: os.environ[name] for name in NAMES if name in os.environ}
    assert found == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "NODE_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "15012",
    }


def start(module: str, *arguments: str, at: Path, said: dict[str, str]) -> tuple[int, str, str]:
    paths = f"{PATHS}{os.pathsep}{Path(__file__).parent}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **said}
    command = [sys.executable, "-m", module, *arguments]
    done = warm.run(command, capture_output=True, text=True, cwd=at, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("variables", "launcher"), [ONE_OF_MANY[0], ONE_OF_MANY[4]])
@pytest.mark.parametrize("many", [[], ["-m"]])
def test_a_command_refuses_before_it_writes(
    variables: dict[str, str], launcher: str, many: list[str], tmp_path: Path
) -> None:
    code, out, err = start(
        "kd_research.run", *many, *TINY, "output_dir=out", at=tmp_path, said=variables
    )
    assert code == 1
    assert err.count("\n") == 1
    assert f"{launcher} started" in err
    assert not out
    assert not list(tmp_path.iterdir())


def test_a_run_and_a_sweep_ignore_what_is_left_over(tmp_path: Path) -> None:
    """On the commit before Lightning waited for srun's other tasks, or wrote nothing."""
    variables = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    variables |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}
    variables |= {"SLURM_NTASKS_PER_NODE": "4", "WORLD_SIZE": "4"}
    shared = [*TINY, f"output_dir={tmp_path}", "trainer.max_epochs=1"]
    code, _, err = start(
        "kd_research.run", *shared, f"hydra.run.dir={tmp_path}/r", at=tmp_path, said=variables
    )
    assert code == 0, err
    assert read_record(tmp_path / "r").status == "completed"
    swept = ["loss.temperature=2,4", "sweep.n_trials=2", "sampler=random", "sweep.name=s"]
    swept += ["sweep.baseline=false"]
    code, out, err = start(
        "kd_research.run", "-m", *shared, *swept, at=tmp_path, said={**variables, "PMI_RANK": "0"}
    )
    assert code == 0, out + err
    found = sorted((tmp_path / "sweeps" / "s" / "trials").glob("*/record.json"))
    assert [read_record(path).status for path in found] == ["completed"] * 2


def test_torchrun_starts_a_folder(
    tiny: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two processes, as the configuration says; one of three is refused."""
    config = tiny(  # type: ignore[operator]
        "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"
    )
    save(config, tmp_path / CONFIG_NAME)
    with monkeypatch.context() as patch:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        said({"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3", **meeting}, patch)
        assert trial.main([str(tmp_path)]) == 2
    assert "trainer.devices=2 asks for 2: start that many" in capsys.readouterr().err
    assert not (tmp_path / RECORD_NAME).exists()
    code, out, err = start("torchrun_by_forks", str(tmp_path), at=tmp_path, said={})
    assert code == 0, out + err
    assert read_record(tmp_path).status == "completed"
