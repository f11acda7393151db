"""What training costs: the clock of an epoch, and the bytes of a step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import Compose, plain

from kd_research.training import cost
from kd_research.training.cost import EpochTimes, step_bytes
from kd_research.training.distill import Distiller
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run


def of(config: Any, size: int = 16) -> tuple[int, Parts]:
    parts = Parts(plain(config))
    teacher = parts.teacher.module if parts.teacher else None
    found = step_bytes(parts.module, teacher, parts.batch_on(torch.device("cpu"), size))
    return found, parts


def test_the_bytes_of_a_step_are_those_of_its_tensors(tiny: Compose) -> None:
    alone, parts = of(tiny("loss=ce"))
    weights = sum(4 * parameter.numel() for parameter in parts.student.parameters())
    assert alone >= 2 * weights + 4 * 16 * 64  # with the gradients, and the pixels of the batch
    assert alone == of(tiny("loss=ce"))[0]
    sizes = [of(tiny("loss=ce"), size)[0] for size in (16, 32, 64)]
    assert all(small < large for small, large in pairwise(sizes))
    cached, parts = of(tiny("loss=kd"))
    assert parts.teacher is not None
    taught = sum(4 * parameter.numel() for parameter in parts.teacher.module.parameters())
    live = of(tiny("loss=kd", "soft_targets.cache=false"))[0]
    assert alone < cached < cached + taught <= live


def test_steps_that_are_alike_are_counted_once(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(*given: Any) -> int:
        asked.append(step_bytes(*given))
        return asked[-1]

    monkeypatch.setattr(cost, "step_bytes", counted)

    def found(*overrides: str) -> int:
        parts = Parts(plain(tiny(f"output_dir={tmp_path}", *overrides)))
        if "frozen" in overrides[-1]:
            next(parts.student.parameters()).requires_grad_(False)
        value = parts.shared_step_bytes(torch.device("cpu"))[0]["train_step_bytes"]
        assert isinstance(value, int)
        return value

    first = ("loss=dkd", "loss.temperature=2.5", "loss.lambda=0.7")
    other = ("loss=dkd", "loss.temperature=7.5", "loss.lambda=0.3")
    values = [found(*first), found(*other)]
    assert len(asked) == 1  # a temperature is the same step
    (path,) = set(tmp_path.glob("costs/*.json"))
    path.unlink()
    assert found(*other) == values[0] == values[1]
    for overrides in (
        ("loss=kd", "loss.lambda=1"),  # without the labels
        ("loss=kd", "soft_targets.cache=false"),
        ("loss=kd", "dataset.batch_size=32"),
        ("loss=kd", "+student.note=frozen"),
    ):
        before = len(asked)
        assert found(*overrides) == asked[-1]
        assert len(asked) == before + 1


def test_epochs_that_asked_the_teacher_are_told_apart() -> None:
    times = EpochTimes()
    assert set(times.costs().values()) == {None}
    module = Distiller.__new__(Distiller)
    torch.nn.Module.__init__(module)
    cache = SimpleNamespace(computed=0, num_examples=8, filling_seconds=2.0)
    module.__dict__["cached"] = cache
    for wall, processor, computed in [(9.0, 5.0, 8), (2.0, 1.0, 0), (4.0, 3.0, 0), (6.0, 7.0, 8)]:
        times.on_train_epoch_start(None, module)  # type: ignore[arg-type]
        cache.computed += computed
        times._start, times._now = (1.0, 1.0), (1.0 + wall, 1.0 + processor)
        times.on_train_epoch_end(None, module)  # type: ignore[arg-type]
        if wall == 9.0:  # the first counts only where it is the only one
            assert times.costs()["train_epoch_seconds"] == pytest.approx(9.0)
            assert times.costs()["cached_teacher_epoch_cpu_seconds"] is None
    again = EpochTimes()
    again.load_state_dict(times.state_dict())
    for found in (times.costs(), again.costs()):
        assert found["train_epoch_seconds"] == pytest.approx(4.0)
        assert found["train_epoch_cpu_seconds"] == pytest.approx(3.0)
        assert found["cached_teacher_epoch_cpu_seconds"] == pytest.approx(2.0)
        assert found["live_teacher_epoch_cpu_seconds"] == pytest.approx(7.0)


@pytest.mark.parametrize("loss", ["ce", "kd"])
def test_with_augmentation_the_first_run_pays_and_it_is_said(
    loss: str, tmp_path: Path, tiny: Compose
) -> None:
    options = [f"loss={loss}", "trainer.max_epochs=3", "augment@dataset.augment=crop_flip"]
    options += ["dataset.augment.crop=1", f"output_dir={tmp_path / 'outputs'}"]
    first = run(tiny(*options), tmp_path / "first").costs
    second = run(tiny(*options), tmp_path / "second").costs
    assert (first["live_teacher_epoch_cpu_seconds"] is None) == (loss == "ce")
    assert (first["cached_teacher_epoch_cpu_seconds"] is None) == (loss == "kd")
    assert second["live_teacher_epoch_cpu_seconds"] is None
    assert second["cached_teacher_epoch_cpu_seconds"] is not None
