"""What the C library does with memory that tensors have left; glibc alone, elsewhere nothing.

A CPU tensor is a block that glibc's `posix_memalign` cuts out of a larger one. What is left over at
its ends goes to lists of small blocks, where it keeps the freed block from growing together again:
the next tensor of the same size does not fit there (glibc before 2.38). So a loop of large tensors
takes new memory at each turn, though hardly any of it is in use.
"""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt


@cache
def _library() -> Any:
    with contextlib.suppress(OSError):
        library = ctypes.CDLL("libc.so.6")
        if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
            return library
    return None


def keep_freed() -> None:
    """Have freed memory kept, so that each step's activations are not faulted in anew.

    Lightning's fit gave pages back and took them again a hundred thousand times in ten steps of
    resnet56 -> resnet20, which cost 6 to 8 %.
    """
    if _library() is not None:
        _library().mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        _library().mallopt(_MMAP_THRESHOLD, 2**30)


def give_freed_back() -> None:
    """Give the pages back that no tensor uses, those between others too."""
    if _library() is not None:
        _library().malloc_trim(0)
