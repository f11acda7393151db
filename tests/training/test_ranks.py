"""Several processes a trial: inside a sweep, and on several machines."""

import multiprocessing
import os

import pytest
import torch
from sweep_commands import folder, processes_of, proposals, records, sweep

from kd_research.configuration.config import save
from kd_research.configuration.ranks import clear
from kd_research.pools.child import free_port
from kd_research.records.record import read_record
from kd_research.training.fit import make_trainer
from kd_research.trial import run as trial


def _alone(config_folder, rank, port):
    """Be the only rank of a machine; another one has the other."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "NODE_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": str(port)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
    os._exit(trial.main([str(config_folder)]))


def test_each_rank_on_a_machine_of_its_own_is_the_same_run(tiny, tmp_path):
    """So the GPUs of one trial may be of two machines, which have one each."""
    own = [f"output_dir={tmp_path / 'outputs'}", "loss=ce", "trainer.max_epochs=1"]
    save(tiny(*own, "dataset.subset=160"), tmp_path / "one" / "config.yaml")
    ddp = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    save(tiny(*own, *ddp, "dataset.subset=160"), tmp_path / "two" / "config.yaml")
    assert trial.main([str(tmp_path / "one")]) == 0
    fork, port = multiprocessing.get_context("fork"), free_port()
    ranks = [fork.Process(target=_alone, args=(tmp_path / "two", rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    one, two = (read_record(tmp_path / name) for name in ("one", "two"))
    assert two.metrics["val_nll"] == pytest.approx(one.metrics["val_nll"], rel=1e-3)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text()
    assert lines.count('"epoch": 0') == 1


@pytest.mark.parametrize(
    ("said", "devices", "found"),
    [
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, 2, (1, 2)),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 2, (2, 1)),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, 1, (1, 1)),  # the teacher's own
        ({}, 2, (2, 1)),
    ],
)
def test_lightning_is_told_of_one_device_where_a_machine_has_one_rank(
    said, devices, found, tmp_path, monkeypatch
):
    clear()
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    strategy = "auto" if devices == 1 else "ddp"
    options = {"devices": devices, "strategy": strategy, "accelerator": "cpu"}
    trainer = make_trainer(options, tmp_path)
    assert (trainer.num_devices, trainer.num_nodes) == found


def test_four_trials_of_two_processes_one_of_which_fails(tmp_path):
    code, printed = sweep(
        tmp_path,
        "sweep.n_trials=4",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.accelerator=cpu",
        "sweep.workers=1",
        "student.model._target_=sweep_probe.FailsOnRankOne",
        "+student.model.on=0,1",
    )
    assert code == 0, printed
    found, asked = records(tmp_path), proposals(tmp_path)
    assert sorted(found) == list(range(4))
    for number, record in found.items():
        failed = asked[number]["student.model.on"] == 1
        assert record["status"] == ("failed" if failed else "completed"), record["error"]
        if failed:
            assert record["error"] == "rank 1: ArithmeticError: only here"
        else:
            assert record["metrics"]["val_accuracy"] > 0
            lines = (folder(tmp_path) / "trials" / f"{number:04d}" / "metrics.jsonl").read_text()
            assert lines.count('"epoch": 0') == 1
    assert {record["status"] for record in found.values()} == {"completed", "failed"}
    assert processes_of(tmp_path) == []
