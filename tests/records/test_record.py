"""The record round-trips, and never half a file is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kd_research.records.record import RECORD_NAME, RunRecord, read_record, write_record, write_text


def record() -> RunRecord:
    return RunRecord(
        status="completed",
        config={"loss": {"temperature": 4.0}},
        seed=3,
        metrics={"val_accuracy": 0.5, "val_ece": None},
        costs={"num_params": 10},
    )


def test_round_trip(tmp_path: Path) -> None:
    path = write_record(record(), tmp_path / "run")
    assert read_record(path) == read_record(tmp_path / "run") == record()
    assert record().value("val_accuracy") == 0.5
    assert record().value("num_params") == 10
    assert record().value("val_ece") is None
    assert record().value("unknown") is None


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    write_record(RunRecord("failed", {}, 0, metrics={"val_nll": float("nan")}), tmp_path)
    assert "NaN" not in (tmp_path / RECORD_NAME).read_text()
    assert read_record(tmp_path).metrics["val_nll"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a JSON list, not an object"),
        ("{}", "is not a run record"),
        ('{"schema": 99}', "schema 99, this version reads 1; rerun it"),
    ],
)
def test_what_is_no_record(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "after")
    assert path.read_text() == "before"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_json_is_strict(tmp_path: Path) -> None:
    text = write_record(record(), tmp_path).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["seed"] == 3
