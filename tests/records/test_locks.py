"""A lock that another process holds: who waits says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from kd_research.records import locks

HOLD = """
import filelock, sys
with filelock.FileLock(sys.argv[1]):
    print(flush=True)
    input()
"""


def test_who_waits_says_for_which_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = tmp_path / "lock", []
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()  # it holds the lock

    def told(text: str, *arguments: object) -> None:
        said.append(text % arguments)
        other.communicate(b"\n")  # and lets go of it

    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(locks.log, "warning", told)
    with locks.alone(path, "training the teacher"), pytest.raises(Timeout):
        FileLock(path).acquire(timeout=0)
    FileLock(path).acquire(timeout=0)
    who = f"process {other.pid}" if locks.LOCKS.exists() else "another process"
    assert said == [f"waiting for {who}, which is training the teacher (it holds {path})"]
