"""A lock between processes, on which nobody waits without a word."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 5.0  # a file is made in less; a teacher is not
LOCKS = Path("/proc/locks")  # Linux's


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock at `path`; who has to wait for it tells which process has it, and for what.

    It may wait for ever: where the other process was stopped, only a person can know.

    Args:
        path: of the lock's file.
        what: the other does, for the log: "training the teacher".
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout:
        log.warning("waiting for %s, which is %s (it holds %s)", _holder(path), what, path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    """The process that holds the lock, by its number where the system tells it."""
    with suppress(OSError):
        inode = path.stat().st_ino
        for line in LOCKS.read_text(encoding="utf-8").splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 17514 fe:00:2646428 0 EOF
            if words[1] == "FLOCK" and words[-3].endswith(f":{inode}"):
                return f"process {words[-4]}"
    return "another process"
