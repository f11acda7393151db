"""Costs of one architecture on one machine are measured once, and each record says so."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tiny import Compose
from torch import Tensor, nn

from kd_research import remeasure
from kd_research.configuration.config import save
from kd_research.evaluation import shared_costs
from kd_research.evaluation.shared_costs import SharedCosts
from kd_research.trial import run as trial

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
    assert measured(tmp_path, net(), anew=True)["shared"] is False


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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"costs": {"macs": "x"}, "measurement": {}}'])
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
        costs(student)  # as one that was stopped holds it
    assert asked == [teacher, student]
    assert costs(teacher)
    assert asked == [teacher, student]


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


def test_runs_of_one_architecture_have_one_latency(tmp_path: Path, tiny: Compose) -> None:
    own = [f"output_dir={tmp_path / 'outputs'}", "trainer.max_epochs=1"]
    save(config := tiny(*own), tmp_path / "first" / "config.yaml")
    first = trial.run(config, tmp_path / "first")
    second = trial.run(tiny(*own, "loss.temperature=2"), tmp_path / "second")
    wider = trial.run(tiny(*own, "student.model.width=9"), tmp_path / "wider")
    marks = [run.provenance["measurement"]["shared"] for run in (first, second, wider)]
    assert marks == [False, True, False]
    assert first.costs["latency_ms"] == second.costs["latency_ms"] != wider.costs["latency_ms"]
    latencies = {run.costs["teacher_latency_ms"] for run in (first, second, wider)}
    assert len(latencies) == 1  # the teacher's, once for all
    again = remeasure.remeasure(tmp_path / "first")
    third = trial.run(tiny(*own, "loss.temperature=3"), tmp_path / "third")
    assert third.costs["latency_ms"] == again.costs["latency_ms"]
    assert again.provenance["measurement"]["shared"] is False
