"""The step and its invariants: what the teacher may not do, and what the student must."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from tiny import Compose, plain
from torch import Tensor

from kd_research.configuration.config import save
from kd_research.pools import child
from kd_research.records.record import CONFIG_NAME, METRICS_NAME, read_record
from kd_research.soft_targets import together
from kd_research.soft_targets.store import SoftTargets
from kd_research.teacher.checkpoint import WEIGHTS_NAME
from kd_research.training.fit import fit, make_trainer
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run


def weights(directory: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(directory / WEIGHTS_NAME, weights_only=True)
    return loaded


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_teacher_is_untouched_by_a_fit(tiny: Compose, tmp_path: Path) -> None:
    config = plain(tiny())
    parts = Parts(config)
    assert parts.teacher is not None
    teacher = parts.teacher.module
    assert any("running_mean" in name for name in teacher.state_dict()), "BatchNorm is the point"
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    parts.module.train()
    assert not any(module.training for module in teacher.modules())
    fit(parts.module, parts.data, config["trainer"], tmp_path, lambda row: None)
    assert same(before, teacher.state_dict())
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_teacher_is_outside_modules_checkpoint_optimizer(tiny: Compose, tmp_path: Path) -> None:
    parts = Parts(plain(tiny("loss=kd")))
    parts.module.trainer = make_trainer(parts.config["trainer"], tmp_path)
    assert parts.teacher is not None
    theirs = {id(tensor) for tensor in parts.teacher.module.state_dict(keep_vars=True).values()}
    module = parts.module
    assert not theirs & {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    assert not theirs & {id(p) for p in module.parameters()}, "DDP's buckets are made of these"
    assert set(module.state_dict()) == {f"student.{name}" for name in parts.student.state_dict()}
    optimizer = module.configure_optimizers()["optimizer"]
    slots = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert slots == {id(p) for p in parts.student.parameters()}


def test_teacher_accuracy_is_logged_before_the_first_step(tiny: Compose, tmp_path: Path) -> None:
    record = run(tiny(), tmp_path)
    assert record.status == "completed", record.error
    first, second, *_ = (tmp_path / METRICS_NAME).read_text().splitlines()
    assert '"step": 0' in first
    assert f'"teacher_val_accuracy": {record.metrics["teacher_val_accuracy"]}' in first
    assert '"epoch": 0' in second


def test_one_seed_decides_the_student(tiny: Compose, tmp_path: Path) -> None:
    drop = "student.model.dropout=0.3"
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(tiny(drop, f"seed={seed}"), tmp_path / name).status == "completed"
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_lambda_zero_is_the_student_alone_bit_for_bit(tiny: Compose, tmp_path: Path) -> None:
    drop = "student.model.dropout=0.3"
    run(tiny(drop, "loss=kd", "loss.lambda=0"), tmp_path / "kd")
    run(tiny(drop, "loss=ce"), tmp_path / "ce")
    run(tiny(drop, "loss=ce", "teacher.model=null"), tmp_path / "alone")
    assert same(weights(tmp_path / "kd"), weights(tmp_path / "ce"))
    assert same(weights(tmp_path / "kd"), weights(tmp_path / "alone"))
    assert read_record(tmp_path / "ce").metrics["teacher_agreement"] is not None
    assert read_record(tmp_path / "alone").metrics["teacher_agreement"] is None


def test_the_objective_is_continuous_in_lambda(tiny: Compose, tmp_path: Path) -> None:
    run(tiny("loss.lambda=0"), tmp_path / "zero")
    run(tiny("loss.lambda=1e-6"), tmp_path / "small")
    zero, small = weights(tmp_path / "zero"), weights(tmp_path / "small")
    assert not same(zero, small)
    for name, tensor in zero.items():
        torch.testing.assert_close(small[name], tensor, atol=2e-3, rtol=0)


def run_in_two_processes(config: object, directory: Path, by_lightning: bool) -> None:
    """By `python -m kd_research.trial`, of which Lightning starts the second one; or both by us."""
    save(config, directory / CONFIG_NAME)  # type: ignore[arg-type]
    if by_lightning:
        command = [sys.executable, "-m", "kd_research.trial", str(directory)]
        done = warm.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return
    part = child.Part(0, 2, "127.0.0.1", child.free_port())
    arguments = (directory, "kd_research.trial.run", "main", 2, part)
    process = multiprocessing.get_context("fork").Process(target=ranks, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def ranks(*arguments: object) -> None:
    """In a process of its own, which ends as its ranks do."""
    os._exit(child._run_ranks(*arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_steps", ["one", "two epochs"])
def test_two_processes_equal_one(tiny: Compose, tmp_path: Path, num_steps: str) -> None:
    """One SGD step of rate 1 changes the weights by the gradient; two epochs show the metrics."""
    overrides = ["optimizer=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0"]
    overrides += ["scheduler=constant", "loss.temperature=2", "dataset.batch_size=101"]
    if num_steps == "one":  # one global batch of 1149 examples, of which one is left over by two
        overrides += ["optimizer.lr=1", "trainer.max_epochs=1", "dataset.batch_size=2000"]
    one = run(tiny(*overrides), tmp_path / "one")
    two_processes = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    run_in_two_processes(tiny(*overrides, *two_processes), tmp_path / "two", num_steps == "one")
    two = read_record(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, atol=2e-6, rtol=1e-5)
    assert one.status == two.status == "completed"
    assert one.selection["epoch"] == two.selection["epoch"]
    assert two.selection["value"] == pytest.approx(one.selection["value"], abs=1e-7)
    for name, value in one.metrics.items():
        assert two.metrics[name] == pytest.approx(value, abs=1e-5), name
    rows = [(tmp_path / who / METRICS_NAME).read_text().splitlines() for who in ("one", "two")]
    assert len(rows[0]) == len(rows[1]), "the second process writes no rows"


def test_two_ranks_ask_the_teacher_for_each_row_once(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, noted = together._compute, tmp_path / "noted"

    def note(cached: SoftTargets, *given: Any) -> None:
        before = cached.computed
        compute(cached, *given)
        with noted.open("a") as stream:
            rows = f"{cached.num_examples} {cached.computed - before}"
            stream.write(f"{cached.key} {os.getpid()} {rows}\n")

    monkeypatch.setattr(together, "_compute", note)
    two_processes = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    own = [f"output_dir={tmp_path / 'outputs'}", "trainer.max_epochs=1"]
    run_in_two_processes(tiny(*own, *two_processes), tmp_path / "two", by_lightning=False)
    assert read_record(tmp_path / "two").status == "completed"
    lines = [line.split() for line in noted.read_text().splitlines()]
    of_training = [line for line in lines if line[2] == "1149"]
    assert len({process for _, process, *_ in of_training}) == 2
    assert sum(int(computed) for *_, computed in of_training) == 1149
