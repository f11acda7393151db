"""One run, from its folder to its record."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny import Compose

from kd_research.configuration.config import ConfigError, save
from kd_research.records.outside import PUT_BACK
from kd_research.records.record import CONFIG_NAME, METRICS_NAME, RECORD_NAME, read_record
from kd_research.trial import run as trial
from kd_research.trial.assembly import Parts

METRICS = {
    "val_accuracy": 1.0,
    "val_nll": None,
    "val_ece": 1.0,
    "teacher_agreement": 1.0,
    "teacher_val_accuracy": 1.0,
    "accuracy_retention": None,
    "test_accuracy": 1.0,
    "test_nll": None,
    "test_ece": 1.0,
    "test_teacher_agreement": 1.0,
    "teacher_test_accuracy": 1.0,
    "test_accuracy_retention": None,
}
COSTS = {"num_params", "model_bytes", "macs", "latency_ms", "peak_memory_bytes", "energy_joules"}


def test_a_run_from_its_folder(
    tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tiny(), tmp_path / CONFIG_NAME)
    assert trial.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    record = read_record(tmp_path)
    assert record.status == "completed"
    assert record.error is None
    assert METRICS.keys() <= record.metrics.keys()
    for name, most in METRICS.items():
        value = record.metrics[name]
        assert value is not None
        assert 0 <= value <= (most or float("inf")), name
    assert record.costs.keys() >= COSTS
    assert record.costs["num_params"] == 64 * 8 + 8 + 8 * 10 + 10
    assert record.costs["macs"] == 64 * 8 + 8 * 10
    assert record.selection["metric"] == "val_accuracy"
    assert {"command", "versions", "git", "device", "data_fingerprint", "teacher_fingerprint"} <= (
        record.provenance.keys()
    )
    assert record.config["loss"]["temperature"] == 4.0
    assert f"{record.metrics['test_accuracy']:.4f}" in printed
    assert str(tmp_path / RECORD_NAME) in printed
    rows = [json.loads(line) for line in (tmp_path / METRICS_NAME).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [-1, 0, 1]
    assert rows[record.selection["epoch"] + 1]["val_accuracy"] == record.selection["value"]
    assert record.metrics["val_accuracy"] == pytest.approx(record.selection["value"])
    assert not (tmp_path / "checkpoints").exists()


def test_a_full_disk_is_told_in_a_line(
    tiny: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    save(tiny(), tmp_path / CONFIG_NAME)
    monkeypatch.setattr(trial, "fit_in_stages", full)
    assert trial.main([str(tmp_path)]) == PUT_BACK
    printed = capsys.readouterr().err
    assert printed.startswith(f"put back: no room on the disk of {tmp_path}")
    assert printed.count("\n") == 1
    assert not (tmp_path / RECORD_NAME).exists()
    monkeypatch.undo()
    monkeypatch.setattr(trial, "write_record", full)
    assert trial.main([str(tmp_path)]) == PUT_BACK
    assert capsys.readouterr().err.startswith(f"put back: no room on the disk of {tmp_path}")
    assert (tmp_path / "checkpoints").exists(), "the fit is not done again"


def test_a_run_whose_folder_is_removed_says_so(
    tiny: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    save(tiny(), folder / CONFIG_NAME)
    whole = trial.save_weights

    def remove(*arguments: Any) -> None:
        shutil.rmtree(folder)
        whole(*arguments)

    monkeypatch.setattr(trial, "save_weights", remove)
    assert trial.main([str(folder)]) == PUT_BACK
    assert capsys.readouterr().err.startswith(f"put back: {folder} was removed")
    assert not (folder / RECORD_NAME).exists()


def test_the_weights_are_those_that_were_measured(tiny: Compose, tmp_path: Path) -> None:
    from hydra.utils import instantiate

    from kd_research.evaluation.quality import predict, scores
    from kd_research.teacher.checkpoint import load_weights

    record = trial.run(tiny(), tmp_path)
    student = instantiate(record.config["student"]["model"])
    load_weights(student, tmp_path)
    data = instantiate(record.config["dataset"], seed=0)
    found = scores(predict(student, data, data.test), data.test.labels)
    assert found["accuracy"] == record.metrics["test_accuracy"]


def test_selection_is_on_validation_and_test_is_read_once(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test split is asked for after the fit alone: for the student and for the teacher."""
    from kd_research.data.module import DataModule
    from kd_research.data.sources import Split
    from kd_research.evaluation import quality as evaluate

    asked, parts, sizes = [], [], []
    batches, part = DataModule.batches, Split.part

    def watch(self: DataModule, split: Split) -> object:
        is_test = split is self.test or any(
            split is made and whole is self.test for whole, made in parts
        )
        if is_test:
            assert (tmp_path / "weights.pt").exists()
            sizes.append(len(self.test))
            asked.append(len(split))
        return batches(self, split)

    def watch_part(self: Split, index: torch.Tensor) -> Split:
        parts.append((self, part(self, index)))
        return parts[-1][1]

    monkeypatch.setattr(DataModule, "batches", watch)
    monkeypatch.setattr(Split, "part", watch_part)
    trial.run(tiny("trainer.max_epochs=3", f"output_dir={tmp_path / 'outputs'}"), tmp_path)
    assert sum(asked) == 2 * sizes[0]  # the student's pass, and the teacher's in parts
    assert evaluate.ECE_BINS == 15


def test_a_loss_that_is_not_finite_fails_with_its_reason(
    tiny: Compose, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record = trial.run(tiny("optimizer.lr=1e30"), tmp_path)
    assert record.status == "failed"
    assert "became non-finite in epoch 0" in (record.error or "")
    assert read_record(tmp_path).error == record.error
    assert "Traceback" in capfd.readouterr().err, "the log has the traceback"


def test_a_wrong_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trial.main([str(tmp_path / "none")]) == 2
    assert "there is no" in capsys.readouterr().err
    (tmp_path / CONFIG_NAME).write_text("loss: 3\n")
    assert trial.main([str(tmp_path)]) == 2
    assert "lacks dataset, teacher, student" in capsys.readouterr().err
    (tmp_path / CONFIG_NAME).write_text("a: [1\n")
    assert trial.main([str(tmp_path)]) == 2
    assert "is not YAML" in capsys.readouterr().err
    assert trial.main([]) == 2
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_NAME]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("student.model._target_", "kd_research.models.mlp.Nope", "student: "),
        ("optimizer._target_", "torch.optim.Nope", "optimizer: "),
        ("dataset.input_shape", [3, 8, 8], r"try dataset.input_shape=\[1, 8, 8\]"),
        ("dataset.num_classes", 4, "labels of 'digits' run from 0 to 9"),
        ("trainer.devices", 0, "^trainer: "),
        ("trainer.precision", "bf17", "^trainer: "),
    ],
)
def test_parts_that_do_not_fit(
    tiny: Compose, tmp_path: Path, key: str, value: object, message: str
) -> None:
    config = tiny()
    OmegaConf.update(config, key, value)
    record = trial.run(config, tmp_path)
    assert record.status == "failed"
    assert record.error is not None
    assert __import__("re").search(message, record.error), record.error


def test_a_sweep_is_told_of_a_refused_trainer_before_its_trials(
    tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tiny("+trainer.nope=1"), tmp_path / CONFIG_NAME)
    assert trial.prepare([str(tmp_path)]) == 2
    assert (
        "trainer.nope is no option of Lightning's Trainer; leave it out" in capsys.readouterr().out
    )


@pytest.mark.parametrize("given", ["16-mixed", "16"])
def test_half_precision_is_refused_where_another_would_run(
    given: str, tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning runs bf16 in its place on a CPU, and the record would say 16-mixed."""
    save(tiny(f"trainer.precision={given}", "trainer.accelerator=cpu"), tmp_path / CONFIG_NAME)
    assert trial.prepare([str(tmp_path)]) == 2
    assert "try trainer.precision=bf16-mixed" in capsys.readouterr().out


def test_a_teachers_half_precision_is_refused_as_well(tiny: Compose, tmp_path: Path) -> None:
    record = trial.run(
        tiny("+teacher.trainer.precision=16-mixed", "trainer.accelerator=cpu"), tmp_path
    )
    assert "try trainer.precision=bf16-mixed" in str(record.error)


def test_the_parts_are_made_for_the_fits_device(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def parts(config: object, device: torch.device) -> None:
        asked.append(device.type)
        raise ConfigError(["enough"])

    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    monkeypatch.setattr(trial, "make_trainer", lambda *_: trainer)
    monkeypatch.setattr(trial, "check_device", lambda *_: None)
    monkeypatch.setattr(trial, "Parts", parts)
    save(tiny(), tmp_path / CONFIG_NAME)
    assert trial.prepare([str(tmp_path)]) == 2
    assert trial.run(tiny(), tmp_path).error == "enough"
    assert asked == ["meta", "meta"]


def test_weights_of_every_thread_count_stay_the_process_default(tiny: Compose) -> None:
    before = torch.get_num_threads()
    try:
        Parts({**OmegaConf.to_container(tiny(), resolve=True), "num_threads": 2})  # type: ignore[dict-item]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
