"""A run that is killed and run again gives what an uninterrupted one gives."""

import json
import os
import signal

import pytest
import torch
from sweep_commands import make_plan

from kd_research.configuration.config import save
from kd_research.pools import child
from kd_research.records.record import CONFIG_NAME
from kd_research.training import continuation
from kd_research.training.fit import EpochLog
from kd_research.trial import run as trial
from kd_research.trial.assembly import Parts

SMALL = (
    "teacher=mlp",
    "teacher.trainer.max_epochs=1",
    "student.model.width=8",
    "student.model.depth=1",
    "student.model.dropout=0.3",
    "trainer.max_epochs=4",
    "trainer.enable_progress_bar=false",
    "tracking=disabled",
)


def in_fork(action):
    """Run it in a process of its own; what that ended with."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_in_epoch(epoch):
    """Make this process kill itself at the end of an epoch, after its row is written."""
    whole = EpochLog.on_train_epoch_end

    def then_kill(self, trainer, module):
        whole(self, trainer, module)
        if trainer.current_epoch == epoch and trainer.max_epochs == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    EpochLog.on_train_epoch_end = then_kill


def rows(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


MEMORY_BANK = (
    "loss=crd",
    "loss.num_negatives=256",
    "loss.student_layers=[layers.0]",
    "loss.teacher_layers=[layers.0]",
)


@pytest.mark.parametrize("loss", [("loss=kd",), MEMORY_BANK])
def test_a_killed_run_goes_on_to_the_same_result(loss, tmp_path, monkeypatch):
    monkeypatch.setattr(continuation, "CHECKPOINT_SECONDS", 0.0)
    config = make_plan(*SMALL, *loss, f"output_dir={tmp_path}").config
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert in_fork(lambda: trial.run(config, whole)) == 0
    assert json.loads((whole / "record.json").read_text())["error"] is None

    def killed():
        kill_in_epoch(2)
        trial.run(config, cut)

    assert in_fork(killed) == -signal.SIGKILL
    assert [row["epoch"] for row in rows(cut)] == [-1, 0, 1, 2]
    assert continuation.last_epoch(cut, continuation.identity(trial._plain(config))) == 1
    assert in_fork(lambda: trial.run(config, cut)) == 0
    assert rows(cut) == rows(whole)
    assert [row["epoch"] for row in rows(cut)] == [-1, 0, 1, 2, 3]
    weights = [torch.load(path / "weights.pt", weights_only=True) for path in (whole, cut)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (cut / "checkpoints").exists()


def test_a_killed_training_of_a_teacher_goes_on_to_the_same_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(continuation, "CHECKPOINT_SECONDS", 0.0)
    recipe = ("teacher.trainer.max_epochs=4", "teacher.model.width=8", "teacher.model.dropout=0.3")

    def teach(at):
        Parts(trial._plain(make_plan(*SMALL, *recipe, f"output_dir={tmp_path / at}").config))

    def killed():
        kill_in_epoch(2)
        teach("cut")

    assert in_fork(lambda: teach("whole")) == 0
    assert in_fork(killed) == -signal.SIGKILL
    (cut,), (whole,) = (list((tmp_path / at / "teachers").iterdir()) for at in ("cut", "whole"))
    assert cut.name == whole.name
    assert continuation.checkpoint_path(cut).exists()
    assert in_fork(lambda: teach("cut")) == 0
    assert rows(cut) == rows(whole)
    assert len(rows(cut)) == 4
    weights = [torch.load(path / "weights.pt", weights_only=True) for path in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (cut / "checkpoints").exists()


def test_a_killed_run_of_two_processes_goes_on_to_the_same_result(tmp_path, monkeypatch):
    monkeypatch.setattr(continuation, "CHECKPOINT_SECONDS", 0.0)
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")
    config = make_plan(*SMALL, *ranks, f"output_dir={tmp_path}").config
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for directory in (whole, cut):
        save(config, directory / CONFIG_NAME)

    def run(directory):
        os._exit(child._run_ranks(directory, "kd_research.trial.run", "main", 2))

    def killed():
        kill_in_epoch(2)
        run(cut)

    assert in_fork(lambda: run(whole)) == 0
    assert in_fork(killed) == -signal.SIGKILL
    assert continuation.last_epoch(cut, continuation.identity(trial._plain(config))) == 1
    assert in_fork(lambda: run(cut)) == 0
    assert rows(cut) == rows(whole)
    weights = [torch.load(path / "weights.pt", weights_only=True) for path in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_checkpoint_of_another_configuration_is_not_continued(tmp_path):
    path = continuation.checkpoint_path(tmp_path)
    path.parent.mkdir()
    state = {"identity": continuation.identity({"seed": 1}), "random": []}
    torch.save({"epoch": 3, continuation.KEY: state}, path)
    same = continuation.identity({"seed": 1, "tracking": {"mode": "online"}})
    assert continuation.last_epoch(tmp_path, same) == 3
    assert continuation.last_epoch(tmp_path, continuation.identity({"seed": 2})) is None
    path.write_bytes(path.read_bytes()[:40])
    assert continuation.last_epoch(tmp_path, same) is None


def test_a_half_written_row_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert continuation.trim_rows(path, 1) == [{"epoch": 0}, {"epoch": 1}]
    assert path.read_text() == '{"epoch": 0}\n{"epoch": 1}\n'
    assert continuation.trim_rows(path, None) == []
    assert path.read_text() == ""
