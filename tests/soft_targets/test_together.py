"""Several processes want one view at once: each output is computed by one of them alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from sweep_commands import folder as sweep_folder
from sweep_commands import start
from torch import Tensor

from kd_research.interfaces import Output
from kd_research.records.record import read_json
from kd_research.soft_targets import together
from kd_research.soft_targets.store import LOGITS, SoftTargets
from kd_research.soft_targets.together import fill_view
from kd_research.training.cost import EpochTimes
from kd_research.training.distill import Distiller

NUM = 640
Compute = Callable[[Tensor], Output]


def store(folder: Path) -> SoftTargets:
    made = SoftTargets(folder, "key", NUM, {LOGITS: (10,)}, num_views=1)
    made.start_epoch(0)
    return made


def logits(index: Tensor) -> Output:
    return Output(index.float()[:, None] * torch.arange(10.0), {})


def whole(made: SoftTargets) -> bool:
    every = torch.arange(NUM)
    got = made.outputs(every, lambda _: pytest.fail("an output is missing"))
    return torch.equal(got.logits, logits(every).logits)


def in_process(
    folder: Path, barrier: Any, counts: Any, die_after: int | None = None, at_once: int = 16
) -> None:
    """Fill the view, and tell how many outputs were computed here; or die in the midst of it."""
    torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
    made, asked = store(folder), 0

    def compute(index: Tensor) -> Output:
        nonlocal asked
        first, asked = asked == 0, asked + len(index)
        dies = die_after is not None and asked > die_after
        if dies or (first and die_after is None):
            barrier.wait(60)  # so that all are at it together; who dies is last to come
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return logits(index)

    fill_view(made, compute, at_once)
    counts.put(made.computed)
    assert whole(made)


@pytest.mark.parametrize("batches", [(16, 16), (16, 100), (16, 24, 64, 100)])
def test_no_output_is_computed_twice(batches: tuple[int, ...], tmp_path: Path) -> None:
    """Trials of one sweep may have other batch sizes."""
    context = multiprocessing.get_context("fork")  # which has imported torch
    barrier, counts = context.Barrier(len(batches)), context.Queue()
    processes = [
        context.Process(
            target=in_process, args=(tmp_path, barrier, counts, None, size), daemon=True
        )
        for size in batches
    ]
    for process in processes:
        process.start()
    shares = [counts.get(timeout=100) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sum(shares) == NUM
    assert min(shares) > 0


def test_two_sweepers_ask_the_teacher_for_each_row_once(tmp_path: Path) -> None:
    typed = ("sweep.n_trials=2", "sweep.workers=1", "trainer.max_epochs=2")
    sweepers = [start(tmp_path, *typed, "dataset.batch_size=choice(32,100)") for _ in range(2)]
    for sweeper in sweepers:
        printed, _ = sweeper.communicate(timeout=300)
        assert sweeper.returncode == 0, printed
    paths = sweep_folder(tmp_path).glob("trials/*/record.json")
    stores = [read_json(path)["provenance"]["soft_targets"] for path in paths]
    assert len(stores) == 2
    (key,) = {store["key"] for store in stores}
    num = json.loads((tmp_path / "soft_targets" / key / "key.json").read_text())[2]
    assert sum(store["computed"] for store in stores) == num * stores[0]["views"]


def test_what_the_claimer_was_killed_over_is_computed_by_the_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, counts = context.Barrier(2), context.Queue()
    victim = context.Process(target=in_process, args=(tmp_path, barrier, counts, 100), daemon=True)
    other = context.Process(target=in_process, args=(tmp_path, barrier, counts), daemon=True)
    for process in (victim, other):
        process.start()
    computed = counts.get(timeout=100)
    for process in (victim, other):
        process.join()
    assert victim.exitcode == -signal.SIGKILL
    assert other.exitcode == 0
    assert NUM - 100 <= computed < NUM
    assert whole(store(tmp_path))


def test_who_holds_a_chunk_for_ever_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(together, "PATIENCE", 0.05)
    made = store(tmp_path)
    with FileLock(made.directory / "chunk-00.lock"):  # as by a process that was stopped
        fill_view(made, logits, at_once=16)
    assert whole(made)
    assert "has held teacher outputs" in caplog.text


def test_what_is_there_is_not_asked_for(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.rows(torch.arange(0, NUM, 2), lambda places: logits(2 * places))
    asked: list[int] = []

    def compute(index: Tensor) -> Output:
        asked.extend(index.tolist())
        return logits(index)

    fill_view(made, compute, at_once=16)
    assert asked == list(range(1, NUM, 2))
    fill_view(made, lambda _: pytest.fail("all is there"), at_once=16)


def test_the_others_share_is_in_the_price_of_a_live_teacher() -> None:
    times, module = EpochTimes(), Distiller.__new__(Distiller)
    torch.nn.Module.__init__(module)
    cache = SimpleNamespace(computed=0, num_examples=8, filling_seconds=2.0)
    module.__dict__["cached"] = cache
    times.on_train_epoch_start(None, module)  # type: ignore[arg-type]
    cache.computed += 2  # of the 8 outputs
    times._start, times._now = (0.0, 0.0), (5.0, 3.0)
    times.on_train_epoch_end(None, module)  # type: ignore[arg-type]
    costs = times.costs()
    assert costs["train_epoch_cpu_seconds"] == pytest.approx(3.0)
    assert costs["live_teacher_epoch_cpu_seconds"] == pytest.approx(1.0 + 4 * 2.0)
