"""`benchmarks/teacher_once.py` in miniature: both ways compute each output once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("teacher_once")
    for name in ("teacher_once", "sweep"):
        sys.modules.pop(name, None)


def test_both_ways_compute_each_output_once(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    nets = ("--teacher", "mlp", "--student", "mlp", "--images", "130")
    script.main([*nets, "--workers", "2", "--settings", "3", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "  claims: " in printed
    assert "  filler: " in printed
    assert printed.count("130 outputs computed of 130") == 2  # the digits have one view
    assert "filler / claims, wall: " in printed
