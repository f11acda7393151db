"""Which epoch is kept: the rule for equals, for students and teachers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tiny import Compose, plain

from kd_research.training.selection import SELECTION, KeepSelected
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run


def told(keep: KeepSelected, values: list[tuple[float, float]]) -> list[bool]:
    """What it says to epochs of these (accuracy, NLL)."""
    answers = []
    for accuracy, nll in values:
        trainer = SimpleNamespace(
            callback_metrics={"val_nll": torch.tensor(nll)},
            strategy=SimpleNamespace(reduce_boolean_decision=lambda decision: decision),
        )
        answers.append(keep.check_monitor_top_k(cast(Any, trainer), torch.tensor(accuracy)))
    return answers


def test_of_equals_the_lowest_nll_then_the_latest(tmp_path: Path) -> None:
    epochs = [(0.5, 1.0), (0.9, 0.4), (0.9, 0.3), (0.9, 0.35), (0.9, 0.3), (0.8, 0.1)]
    keep = KeepSelected(tmp_path, *SELECTION)
    assert told(keep, epochs) == [True, True, True, False, True, False]
    assert keep.ties == 3
    assert told(keep, [(0.95, 0.6)]) == [True]
    assert keep.ties == 0


def test_the_rule_outlives_a_cut(tmp_path: Path) -> None:
    first = KeepSelected(tmp_path, *SELECTION)
    told(first, [(0.9, 0.3), (0.9, 0.5)])
    second = KeepSelected(tmp_path, *SELECTION)
    second.load_state_dict(first.state_dict())
    assert told(second, [(0.9, 0.4), (0.9, 0.2)]) == [False, True]
    assert second.ties == 3


@pytest.mark.parametrize("rate", ["1e-7", "1e-30"])  # the NLL falls, or nothing changes at all
def test_a_students_ties(tiny: Compose, tmp_path: Path, rate: str) -> None:
    record = run(tiny(f"optimizer.lr={rate}", "trainer.max_epochs=4"), tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["epoch"] >= 0]
    assert len({row["val_accuracy"] for row in rows}) == 1
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_nll"], row["epoch"]))
    assert record.selection["epoch"] == best["epoch"] == 3
    assert record.selection["ties"] == 3


def test_a_teachers_ties(tiny: Compose) -> None:
    options = ["teacher=mlp", "teacher.optimizer.lr=1e-7", "teacher.trainer.max_epochs=3"]
    parts = Parts(plain(tiny(*options)))
    assert parts.teacher is not None
    folder = parts.teacher.path.parent
    (found,) = json.loads((folder / "teacher.json").read_text()).items()
    assert found[0] == "selection"  # the first run evaluates it, for all
    said = found[1]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    equals = [row for row in rows if row["val_accuracy"] == said["value"]]
    assert said["ties"] == len(equals) - 1 > 0
    assert said["epoch"] == min(equals, key=lambda row: row["val_nll"])["epoch"]
    assert said["epoch"] != equals[0]["epoch"]
