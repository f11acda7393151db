"""What a value of the configuration is: its types are whatever somebody typed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard


def is_whole(value: Any, least: int = 0) -> TypeGuard[int]:
    """Whether it is an int of at least `least`, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite int or float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(values: Any, *lengths: int) -> TypeGuard[Sequence[float]]:
    """Whether it is a list of numbers that has one of the lengths."""
    if not isinstance(values, Sequence) or len(values) not in lengths:
        return False
    return all(map(is_number, values))
