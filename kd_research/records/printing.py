"""Printing that ends nothing: a terminal that was closed, a pipe that ended, a disk that is full.

What a run or a report prints is for whoever looks; what counts is in files. Standard output and
error of a command are therefore streams that drop what cannot be written, and that show a
character which their encoding lacks as an escape.
"""

from __future__ import annotations

import faulthandler
import io
import sys
from contextlib import suppress
from typing import Any

SPOKEN = "kd_research.spoken"  # the logger of what a person sees who started a run by hand


class _Dropping(io.FileIO):
    """A file descriptor that takes everything, also once nothing can be written to it."""

    def write(self, data: Any, /) -> int:
        """Write, or drop."""
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError:
            return size
        return size if written is None else written


def print_safely() -> None:
    """Make standard output and error of this process streams whose failure ends nothing.

    What ends the process by a signal of its own making, as a segmentation fault, prints where.
    """
    faulthandler.enable(2)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed before Python started: print() drops by itself
            continue
        with suppress(OSError):
            stream.flush()
        raw = _Dropping(number, "w", closefd=False)
        steady = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=name == "stderr" or raw.isatty(),
        )
        setattr(sys, name, steady)
