"""What a value of a configuration is: its types are whatever somebody typed."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import OmegaConf


def is_number(value: Any, above: float | None = None) -> bool:
    """Whether it is finite, no truth value, and above `above`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and (above is None or value > above)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 1."""
    return is_whole(value) and value >= 1


def plain(node: Any) -> Any:
    """A node of a configuration as resolved plain containers; anything else as it is."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
