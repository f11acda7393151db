"""The two temporary folders that W&B makes when it is imported, and leaves where a process ends.

A forked process runs none of Python's farewells, a killed one nothing at all. So the folders lie
among the outputs, under the name of their process: it removes them when it ends, and where it was
killed the next one on its machine does. A trial has those of the server that it was forked from.
"""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import sys
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

_made: list[Path] = []


def import_wandb(output_dir: Path) -> None:
    """Import W&B, if that was not done yet, with its temporary folders in `output_dir`."""
    if "wandb" in sys.modules:
        for path in _made:  # a person may have removed the outputs since
            path.mkdir(parents=True, exist_ok=True)
        return
    place = output_dir / "wandb" / "tmp"
    _remove_left_over(place)
    own = place / f"{socket.gethostname()}-{os.getpid()}"
    own.mkdir(parents=True, exist_ok=True)
    Finalize(None, _remove, args=(own,), exitpriority=0)
    before, tempfile.tempdir = tempfile.tempdir, str(own)
    try:
        importlib.import_module("wandb")
    finally:
        tempfile.tempdir = before
    _made.extend(own.iterdir())


def _remove_left_over(place: Path) -> None:
    """What processes of this machine left that do not live any more."""
    for path in place.glob(f"{socket.gethostname()}-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and not _lives(int(number)):
            _remove(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
