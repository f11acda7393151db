"""A run that is killed and run again gives what an uninterrupted one gives."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from forks import in_fork
from sweep_commands import make_plan

from kd_research.configuration.config import save
from kd_research.pools import child
from kd_research.records.record import CONFIG_NAME
from kd_research.teacher import train as teachers
from kd_research.training import continuation
from kd_research.training.continuation import Continuation
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


LORA = ("loss=kd", "adapter@student.adapter=lora")


@pytest.mark.parametrize("loss", [("loss=kd",), MEMORY_BANK, LORA])
def test_a_killed_run_goes_on_to_the_same_result(loss, outputs, tmp_path, monkeypatch):
    monkeypatch.setattr(continuation, "LONGEST_SHARE", math.inf)
    if loss is LORA:
        pytest.importorskip("peft", reason="needs kd_research[adapters]")  # once, not in each fork
    config = make_plan(*SMALL, *loss, f"output_dir={outputs}").config
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
    monkeypatch.setattr(continuation, "LONGEST_SHARE", math.inf)
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


def count_epochs(directory):
    """Note in a file every epoch that this process trains."""
    whole = Continuation.on_train_epoch_start

    def note(self, trainer, module):
        with (directory / "epochs").open("a") as stream:
            stream.write(f"{trainer.current_epoch}\n")
        whole(self, trainer, module)

    Continuation.on_train_epoch_start = note


def killer(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def whole_run(outputs, tmp_path_factory):
    """A run that nothing interrupts: its configuration and folder."""
    config = make_plan(*SMALL, "paper_rule=best_epoch", f"output_dir={outputs}").config
    whole = tmp_path_factory.mktemp("whole")
    assert in_fork(lambda: trial.run(config, whole)) == 0
    return config, whole


@pytest.mark.parametrize("at", ["save_weights", "costs_of_pair", "write_record"])
def test_a_kill_between_fit_and_record_costs_no_epoch(at, whole_run, tmp_path):
    (config, whole), cut = whole_run, tmp_path

    def killed():
        count_epochs(cut)
        setattr(trial, at, killer)
        trial.run(config, cut)

    def again():
        count_epochs(cut)
        trial.run(config, cut)

    assert in_fork(killed) == -signal.SIGKILL
    assert not (cut / "record.json").exists()
    assert in_fork(again) == 0
    trained = (cut / "epochs").read_text().split()
    assert trained == ["0", "1", "2", "3"], "once"
    records = [json.loads((path / "record.json").read_text()) for path in (whole, cut)]
    for part in ("metrics", "selection", "status"):
        assert records[0][part] == records[1][part]
    assert records[1]["costs"]["train_epoch_seconds"] > 0
    assert rows(cut) == rows(whole)
    weights = [torch.load(path / "weights.pt", weights_only=True) for path in (whole, cut)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (cut / "checkpoints").exists()


def test_a_kill_between_a_teachers_fit_and_its_weights_costs_no_epoch(tmp_path):
    def teach():
        count_epochs(tmp_path)
        Parts(trial._plain(make_plan(*SMALL, f"output_dir={tmp_path}").config))

    def killed():
        teachers.save_weights = killer
        teach()

    assert in_fork(killed) == -signal.SIGKILL
    assert in_fork(teach) == 0
    assert (tmp_path / "epochs").read_text() == "0\n"
    (folder,) = (tmp_path / "teachers").iterdir()
    assert not (folder / "checkpoints").exists()


@pytest.fixture(scope="module")
def killed_run(outputs, tmp_path_factory):
    """A run that was killed in its third epoch: its configuration, folder, and that as it was."""
    config = make_plan(*SMALL, f"output_dir={outputs}").config
    folder = tmp_path_factory.mktemp("killed") / "run"

    def killed():
        continuation.LONGEST_SHARE = math.inf  # a checkpoint every epoch, however slow the disk
        kill_in_epoch(2)
        trial.run(config, folder)

    assert in_fork(killed) == -signal.SIGKILL
    return config, folder, shutil.copytree(folder, folder.with_name("as_it_was"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("name", ["selected.ckpt", "last.ckpt"])
def test_a_damaged_checkpoint_is_noticed_before_the_fit_goes_on(name, damage, killed_run, caplog):
    config, folder, as_it_was = killed_run
    shutil.rmtree(folder)
    shutil.copytree(as_it_was, folder)
    path = folder / "checkpoints" / name
    identity = continuation.identity(trial._plain(config))
    assert continuation.last_epoch(folder, identity) is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-200], "flipped": content, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    assert continuation.last_epoch(folder, identity) is None
    told = f"{path} is damaged" in caplog.text
    assert told != ((name, damage) == ("last.ckpt", "gone"))
    assert in_fork(lambda: trial.run(config, folder)) == 0
    assert [row["epoch"] for row in rows(folder)] == [-1, 0, 1, 2, 3]


def test_a_killed_run_of_two_processes_goes_on_to_the_same_result(outputs, tmp_path, monkeypatch):
    monkeypatch.setattr(continuation, "LONGEST_SHARE", math.inf)
    ranks = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")
    config = make_plan(*SMALL, *ranks, f"output_dir={outputs}").config
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for directory in (whole, cut):
        save(config, directory / CONFIG_NAME)

    def run(directory):
        part = child.Part(0, 2, "127.0.0.1", child.free_port())
        os._exit(child._run_ranks(directory, "kd_research.trial.run", "main", 2, part))

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
