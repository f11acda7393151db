"""Whether what is to be made can be kept in this machine's memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

GIB = 1 << 30


def refuse_what_cannot_fit(num: int, each: int, shape: Sequence[int]) -> None:
    """Raise ValueError where the set alone is larger than all the memory that there is.

    Args:
        num: `transfer.num_examples`.
        each: how many are made for one of them.
        shape: of an example, which is float32.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    one = 4 * math.prod(shape) * each
    if num * one > there:
        raise ValueError(
            f"the transfer set is kept in memory: {num * each:,} examples of {[*shape]} are "
            f"{num * one / GIB:.1f} GiB, and this machine has {there / GIB:.1f}; "
            f"try transfer.num_examples={max(1, there // 4 // one)}"
            + (", or fewer transfer.variants" if each > 1 else "")
        )
