"""Trouble from outside: no room, a folder that was removed, a database or network that is away.

None of it is the fault of what runs: a trial that it ends is put back, not failed, a sweep stops,
and one line says what was wrong. The same command goes on when it is mended.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PUT_BACK = 75  # the exit code: EX_TEMPFAIL of sysexits.h
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BROKEN_DISK = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN)
NOT_OURS = (errno.EACCES, errno.EPERM)  # where something wrote into its own folder
# What says the same in a text alone: SQLite, torch's and NumPy's writers, pyarrow.
NO_ROOM_TEXTS = (
    "database or disk is full",
    os.strerror(errno.ENOSPC),
    os.strerror(errno.EDQUOT),
    "PytorchStreamWriter failed writing",
    ". unexpected pos ",  # of torch's too, where a file is shorter than what was written
    "Not enough free space to write",  # NumPy's
)
BROKEN_DISK_TEXTS = (
    "disk I/O error",
    "unable to open database file",
    "attempt to write a readonly",
)
NETWORK = ("requests.", "urllib3.", "httpx.", "httpcore.", "huggingface_hub.", "urllib.error")
NETWORK_WORDS = ("Connection", "Timeout", "Offline", "URLError")


class OutsideError(Exception):
    """Ended from outside; the message says by what, in a line."""


def trouble(error: BaseException, directory: Path) -> str | None:
    """What was wrong outside, in a line; None where the error is of what ran.

    Args:
        error: with what caused it.
        directory: where it wrote.
    """
    for cause in _causes(error):
        if isinstance(cause, OutsideError):
            return str(cause)
        text, where = str(cause), directory
        if isinstance(cause, OSError):
            written = cause.filename2 or cause.filename  # of a copy, to where
            if written and isinstance(written, str | Path):
                where = Path(written).parent
            if cause.errno in BROKEN_DISK:
                return f"the disk of {where} fails ({cause.strerror})"
            if cause.errno in NOT_OURS and directory.resolve() in [where.resolve(), *where.parents]:
                return f"{where} cannot be written ({cause.strerror})"
        full = isinstance(cause, OSError) and cause.errno in NO_ROOM
        cut = isinstance(cause, OSError) and text.endswith(" written")  # NumPy's
        if full or cut or any(word in text for word in NO_ROOM_TEXTS):
            if isinstance(cause, OSError) and "; " in (cause.strerror or ""):
                return str(cause.strerror)  # ours, which says what to do
            return f"no room on the disk of {where} ({room(where)}); make some"
        if any(word in text for word in BROKEN_DISK_TEXTS):
            return f"the disk of {directory} fails ({text.splitlines()[0]})"
        kind = f"{type(cause).__module__}."
        away = kind.startswith(NETWORK) and any(w in type(cause).__name__ for w in NETWORK_WORDS)
        if away or type(cause) is ConnectionError:
            return f"the network is away: {' '.join(str(error).split())[:300]}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: set[int] = set()
    known: BaseException | None = error
    while known is not None and id(known) not in seen:
        seen.add(id(known))
        yield known
        known = known.__cause__ or known.__context__


def room(directory: Path) -> str:
    """What is free where the folder is, or was to be."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        free = os.statvfs(directory)
    except OSError as error:
        return str(error.strerror)
    files = f", {free.f_favail:,} files" if free.f_files else ""
    return f"{free.f_bavail * free.f_frsize / 1e6:,.1f} MB{files} free"


def is_full(directory: Path) -> bool:
    """Whether not even a small file can be written there."""
    path = directory / f".room-{os.getpid()}"
    try:
        path.write_bytes(bytes(1 << 14))
    except OSError as error:
        return error.errno in NO_ROOM
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return False


def ended_by(directory: Path, said: str, end: str) -> str:
    """What ended a run from outside, in a line: on a full disk its log may hold nothing of it.

    Args:
        directory: the run's folder.
        said: the last line of its log.
        end: how its process ended.
    """
    if "no room" in said or "the disk" in said:
        return said
    if is_full(directory) or room(directory).startswith("0.0 MB"):
        return f"no room on the disk of {directory} ({room(directory)}); make some"
    return said or f"{end} ({room(directory)})"


class Held:
    """Files or folders that should stay while something runs.

    Args:
        paths: of them.
    """

    def __init__(self, *paths: Path):
        self._descriptors = {path: os.open(path, os.O_RDONLY) for path in paths}

    def check(self) -> None:
        """Look whether they are still there.

        Raises:
            OutsideError: one was removed, or replaced.
        """
        for path, descriptor in self._descriptors.items():
            try:
                now = os.stat(path)
            except FileNotFoundError:
                raise OutsideError(f"{path} was removed") from None
            known = os.fstat(descriptor)
            if (now.st_dev, now.st_ino) != (known.st_dev, known.st_ino):
                raise OutsideError(f"{path} was removed or replaced")

    def close(self) -> None:
        """Let them go."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
