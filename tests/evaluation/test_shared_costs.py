"""Costs of one architecture on one machine are measured once, and each record says so."""

from __future__ import annotations

import errno
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from filelock import FileLock
from tiny import Compose
from torch import Tensor, nn

from kd_research import remeasure
from kd_research.configuration.config import save
from kd_research.data.module import DataModule
from kd_research.evaluation import shared_costs
from kd_research.evaluation.shared_costs import SharedCosts, _source, architecture, once
from kd_research.models.mlp import MLP
from kd_research.records.record import RunRecord, read_record
from kd_research.teacher.train import Teacher
from kd_research.trial import run as trial
from kd_research.trial.known_once import of_teacher

SETTINGS = {"batch_size": 4, "num_runs": 5}


def images(size: int) -> Tensor:
    return torch.zeros(size, 64)


def net(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def measured(folder: Path, model: nn.Module, made: Any = "net", **how: Any) -> dict[str, Any]:
    """How the model's costs were found."""
    settings = {**SETTINGS, **how.pop("settings", {})}
    return SharedCosts(folder, images, settings, {model: made}, **how)(model)[1]


class Prompted(nn.Module):
    """Reads something of its own, which is in no checkpoint, with every input."""

    before: Tensor

    def __init__(self, num: int):
        super().__init__()
        self.net = net()
        self.register_buffer("before", torch.zeros(num, 64), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.net(torch.cat([self.before, inputs]))
        return found


def test_one_architecture_is_measured_once_whatever_its_weights(tmp_path: Path) -> None:
    first = SharedCosts(tmp_path, images, SETTINGS, {(model := net()): "net"})(model)
    other = net()
    again = SharedCosts(tmp_path, images, SETTINGS, {other: "net"})(other)
    assert again[0] == first[0]
    assert (first[1]["shared"], again[1]["shared"]) == (False, True)
    assert again[1]["at"] == first[1]["at"]
    assert measured(tmp_path, net(), since=again[1]["at"])["shared"] is True
    assert measured(tmp_path, net(), since=time.time())["shared"] is False


@pytest.mark.parametrize(
    "how",
    [
        lambda folder: measured(folder, net(9)),
        lambda folder: measured(folder, net(), made="another, of the same layers"),
        lambda folder: measured(folder, net(), settings={"num_runs": 6}),
        lambda folder: (measured(folder, Prompted(2)), measured(folder, Prompted(3)))[1],
        lambda folder: measured(folder, net().double().float().requires_grad_(False).half()),
    ],
)
def test_another_one_is_measured_anew(
    how: Callable[[Path], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(tmp_path, net())
    monkeypatch.setattr(shared_costs, "measure", lambda *_, **__: ({"num_params": 1}, {}))
    assert how(tmp_path)["shared"] is False


DAMAGED = (
    *("", "{", "[]", '{"costs": {"macs": "x"}, "measurement": {"at": 1}}'),
    *('{"costs": {"num_params": 1}, "measurement": {"at": 1}}', '{"costs": {}, "measurement": {}}'),
)


def test_another_machine_and_another_number_of_threads_are_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(tmp_path, net())
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "node", lambda: "another machine on the same folder")
        assert measured(tmp_path, net())["shared"] is False
    with monkeypatch.context() as busier:
        busier.setattr(torch, "get_num_threads", lambda: 99)
        assert measured(tmp_path, net())["shared"] is False
    assert measured(tmp_path, net())["shared"] is True


def test_a_rate_of_dropout_is_no_other_architecture(tmp_path: Path) -> None:
    def found(rate: float) -> bool:
        model = nn.Sequential(net(), nn.Dropout(rate))
        made = {"_target_": "Net", "parts": [{"dropout": rate}], "width": 8}
        shared: bool = measured(tmp_path, model, made)["shared"]
        return shared

    assert [found(rate) for rate in (0.1, 0.5, 0.0, 0.25)] == [False, True, False, True]


@pytest.mark.parametrize("content", DAMAGED)
def test_what_cannot_be_read_is_measured_anew(content: str, tmp_path: Path) -> None:
    measured(tmp_path, net())
    (path,) = tmp_path.glob("*.json")
    path.write_text(content)
    assert measured(tmp_path, net())["shared"] is False
    assert measured(tmp_path, net())["shared"] is True


def test_nobody_waits_for_what_another_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = net(8), net(16)
    costs = SharedCosts(tmp_path, images, SETTINGS, {student: "student", teacher: "teacher"})
    asked: list[nn.Module] = []

    def measure(model: nn.Module, *_: Any, **__: Any) -> Any:
        asked.append(model)
        return {"num_params": 1}, {}

    monkeypatch.setattr(shared_costs, "measure", measure)
    with FileLock(costs._paths[student].with_suffix(".lock")):
        costs.begin()  # does what is free
        assert asked == [teacher]
        monkeypatch.setattr(shared_costs, "PATIENCE", 0.05)
        assert costs(student)[1]["shared"] is False  # as one that was stopped holds it
    assert asked == [teacher, student]
    assert costs(teacher)
    assert asked == [teacher, student]


def test_what_a_teachers_file_lacks_is_found_anew(tmp_path: Path) -> None:
    config = {"output_dir": str(tmp_path), "channels_last": False}
    teacher, data = SimpleNamespace(key="t"), SimpleNamespace(fingerprint=lambda: "d")
    found: list[float] = []

    def accuracy() -> float:
        given = (config, cast("Teacher", teacher), cast("DataModule", data))
        value: float = of_teacher(*given, "accuracy", ask, ("accuracy",))["accuracy"]
        return value

    def ask() -> dict[str, float]:
        found.append(0.5 + len(found))
        return {"accuracy": found[-1]}

    assert [accuracy(), accuracy()] == [0.5, 0.5]
    (path,) = tmp_path.glob("costs/*.json")
    path.write_text(path.read_text().replace("accuracy", "other"))
    assert [accuracy(), accuracy()] == [1.5, 1.5]


@pytest.mark.parametrize("where", ["FileLock", "write_json"])
@pytest.mark.parametrize("why", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_who_cannot_write_measures_for_himself(
    where: str,
    why: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(shared_costs, where, refuse)
    assert measured(tmp_path, net())["shared"] is False
    assert "cannot be written" in caplog.text


def test_what_a_killed_process_measured_is_measured_by_the_next(tmp_path: Path) -> None:
    def die(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)  # under the lock

    def one() -> None:
        SharedCosts(tmp_path, die, SETTINGS, {})
        once(tmp_path / "key.json", die, (), 0.0)

    victim = multiprocessing.get_context("fork").Process(target=one, daemon=True)
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert (tmp_path / "key.lock").exists()
    found = once(tmp_path / "key.json", lambda: ({"macs": 1}, {}), ("macs",), 0.0)
    assert found is not None
    assert (found[0], found[1]["shared"]) == ({"macs": 1}, False)


def test_the_code_of_a_base_class_counts() -> None:
    kind = type("Own", (MLP,), {"__module__": __name__})
    assert _source(MLP) in architecture(kind((64,), 10), "made")["code"]


def test_before_the_fit_fixed_costs_are_taken_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net()
    costs = SharedCosts(tmp_path, images, SETTINGS, {model: "net"})
    before = costs.fixed(model)
    assert before["num_params"] == sum(p.numel() for p in model.parameters())
    assert not list(tmp_path.glob("*.json"))  # which have clocks too
    costs(model)
    monkeypatch.setattr(shared_costs, "fixed_costs", lambda *_: pytest.fail("they are known"))
    assert costs.fixed(model) == before


def test_who_comes_second_takes_what_the_first_has_measured(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    barrier = context.Barrier(2)

    def one() -> None:
        torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
        barrier.wait(60)
        found.put(measured(tmp_path, net())["shared"])

    processes = [context.Process(target=one, daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(found.get(timeout=100) for _ in processes) == [False, True]
    for process in processes:
        process.join()


def timings(run: RunRecord) -> list[object]:
    """Of the student; one alone may come out the same twice, by the clock's steps."""
    names = ("latency_ms", "latency_p95_ms", "batch_latency_ms")
    return [run.costs[name] for name in names]


def test_runs_of_one_architecture_have_one_latency(tmp_path: Path, tiny: Compose) -> None:
    own = [f"output_dir={tmp_path / 'outputs'}", "trainer.max_epochs=1"]
    save(config := tiny(*own), tmp_path / "first" / "config.yaml")
    first = trial.run(config, tmp_path / "first")
    start = f"student.checkpoint={tmp_path / 'first' / 'weights.pt'}"  # costs nothing in use
    save(config := tiny(*own, "loss.temperature=2", start), tmp_path / "second" / "config.yaml")
    second = trial.run(config, tmp_path / "second")
    wider = trial.run(tiny(*own, "student.model.width=9"), tmp_path / "wider")
    runs = (first, second, wider)
    assert [of.provenance["measurement"]["shared"] for of in runs] == [False, True, False]
    assert [of.provenance["measurement"]["teacher_shared"] for of in runs] == [False, True, True]
    assert [of.provenance["measurement"]["train_step_shared"] for of in runs] == [
        *(False, True, False)
    ]
    assert timings(first) == timings(second) != timings(wider)
    assert first.costs["train_step_bytes"] == second.costs["train_step_bytes"]
    latencies = {run.costs["teacher_latency_ms"] for run in (first, second, wider)}
    assert len(latencies) == 1  # the teacher's, once for all

    assert remeasure.main([str(tmp_path / "first"), str(tmp_path / "second")]) == 0
    again = [read_record(tmp_path / name) for name in ("first", "second")]
    marks = [each.provenance["measurement"]["shared"] for each in again]
    assert marks == [False, True]  # once, in one command
    assert timings(again[0]) == timings(again[1]) != timings(first)
    third = trial.run(tiny(*own, "loss.temperature=3"), tmp_path / "third")
    assert timings(third) == timings(again[0])


def test_a_teacher_made_like_its_student_is_not_measured_beside_it(
    tmp_path: Path, tiny: Compose
) -> None:
    alike = ("teacher=mlp", "teacher.model.width=8", "teacher.model.depth=1")
    alike += (f"output_dir={tmp_path}",)  # where nobody has measured it
    found = trial.run(tiny(*alike, "trainer.max_epochs=0"), tmp_path / "run")
    how = found.provenance["measurement"]
    assert (how["shared"], how["teacher_shared"]) == (False, True)
    assert found.costs["latency_ms"] == found.costs["teacher_latency_ms"]
