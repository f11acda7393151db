"""What training costs: the clock of an epoch, and the bytes of a step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny import Compose, plain

from kd_research.training.cost import EpochTimes, step_bytes
from kd_research.trial.assembly import Parts


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


def test_the_first_epoch_counts_only_where_it_is_the_only_one() -> None:
    times = EpochTimes()
    assert times.costs() == {"train_epoch_seconds": None, "train_epoch_cpu_seconds": None}
    for wall, processor in [(9.0, 5.0), (2.0, 1.0), (4.0, 3.0)]:
        times._start, times._now = (1.0, 1.0), (1.0 + wall, 1.0 + processor)
        times.on_train_epoch_end(None, None)  # type: ignore[arg-type]
        if wall == 9.0:
            assert times.costs()["train_epoch_seconds"] == pytest.approx(9.0)
    found = times.costs()
    assert found["train_epoch_seconds"] == pytest.approx(3.0)
    assert found["train_epoch_cpu_seconds"] == pytest.approx(2.0)
