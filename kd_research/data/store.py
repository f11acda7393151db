"""Folders of arrays that are made once per machine, under a lock, and never read half-written.

What makes the arrays fills a temporary folder; it is renamed to its final name when it is whole.
A second process that asks meanwhile waits and reads. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_research.records.locks import alone
from kd_research.records.outside import NO_ROOM
from kd_research.records.printing import SPOKEN
from kd_research.records.record import temporary_path

log = logging.getLogger(SPOKEN)

META_NAME = "meta.json"
CHECKED_BYTES = 1 << 28  # of an array, up to which its content is compared with its digest
_META_KEYS = {"kind", "splits", "class_names"}


def content_key(content: Any) -> str:
    """Twenty hexadecimal digits that name a JSON value."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_digest(path: Path, whole_up_to: int = 1 << 28) -> str:
    """A digest of a file's content.

    Files above `whole_up_to` bytes are known by their size, their time of change and their first
    and last MiB: reading hundreds of gigabytes at every start would be no help.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        if size <= whole_up_to:
            while block := stream.read(1 << 20):
                digest.update(block)
        else:
            digest.update(str(path.stat().st_mtime_ns).encode())
            digest.update(stream.read(1 << 20))
            stream.seek(-(1 << 20), os.SEEK_END)
            digest.update(stream.read())
    return digest.hexdigest()


def build_once(directory: Path, build: Callable[[Path], None], what: str) -> Path:
    """`directory`, made by `build(temporary folder)` if it is not there yet.

    Args:
        directory: the final place; its `meta.json`, which `build` writes last, says it is whole;
            one that cannot be read, or is another's, counts as none.
        build: fills the folder that it is given.
        what: for the log: "decoding mnist".

    Raises:
        OSError: the disk is full; the message says how to go on.
        ValueError: a file lies in its place.
    """
    if _is_whole(directory):
        return directory
    refuse_files(directory.parent, directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with alone(directory.with_name(f"{directory.name}.lock"), what):
        if not _is_whole(directory):
            damaged = ", in place of what has no readable meta.json" if directory.exists() else ""
            log.info("%s into %s, once on this machine%s", what, directory, damaged)
            _build(directory, build, what)
    return directory


def refuse_files(*folders: Path) -> None:
    """Raise ValueError where a file lies in the place of a folder, all of them at once."""
    if found := [str(each) for each in folders if each.exists() and not each.is_dir()]:
        raise ValueError(
            f"{' and '.join(found)}: a file where a folder belongs; move it away, or type another "
            "output_dir"
        )


def _is_whole(directory: Path) -> bool:
    try:
        meta = json.loads((directory / META_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and meta.keys() >= _META_KEYS


def _build(directory: Path, build: Callable[[Path], None], what: str) -> None:
    for left_over in directory.parent.glob(f".{directory.name}.*"):
        shutil.rmtree(
            left_over, ignore_errors=True
        )  # of a process that was killed: we hold the lock
    temporary = temporary_path(directory)
    temporary.mkdir()
    try:
        build(temporary)
        if directory.exists():  # without a meta.json of ours: not ours, or damaged
            shutil.rmtree(directory)
        os.replace(temporary, directory)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        free = shutil.disk_usage(directory.parent).free
        raise OSError(
            error.errno,
            f"the disk is full while {what} into {directory.parent} ({free / 1e6:.0f} MB free); "
            "free some space or type output_dir=/another/disk",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def create_array(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """A writable memory-mapped .npy file whose blocks are really there.

    A sparse file on a full disk would end the process by a signal at the first write.

    Raises:
        OSError: there is no room for it.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(1, path.stat().st_size))
    return array


def open_array(path: Path, digest: str | None = None) -> NDArray[Any]:
    """A .npy file, memory-mapped copy-on-write: processes share its pages, none can change it.

    Args:
        path: the file.
        digest: of the array by `array_digest`, compared; not for one above 256 MiB, which every
            start of a run would read.

    Raises:
        ValueError: the file is not a whole array, or not the array that it was.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete {path.parent} and run again: it is made anew"
        ) from error
    if digest is not None and array.nbytes <= CHECKED_BYTES and array_digest(array) != digest:
        raise ValueError(
            f"{path} is damaged (its content is not what was written); delete {path.parent} and "
            "run again: it is made anew"
        )
    return array


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's bytes, shape and dtype."""
    digest = hashlib.sha256(f"{array.shape}{array.dtype}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
