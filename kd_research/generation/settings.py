"""What text is drawn by. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from kd_research.interfaces import Count, NotNegative


@dataclass(frozen=True)
class GenerationConfig:
    """How text is drawn; what lies in a model's folder is not asked.

    The logits are divided by the temperature, then `top_k` cuts, then `top_p`.

    Attributes:
        max_new_tokens: the most tokens of one text, >= 1.
        temperature: >= 0; 0 is greedy: the likeliest token, of equal ones the first.
        top_k: so many of the likeliest tokens alone; None is all.
        top_p: the fewest of the likeliest tokens whose mass reaches it, in (0, 1] (nucleus
            sampling, Holtzman et al. 2020, arXiv:1904.09751).
        stop: the token id that ends a text, and is its last; None: none does.

    Raises:
        ValueError: a value is out of its range; all of them at once.
    """

    max_new_tokens: Count = 128
    temperature: NotNegative = 1.0
    top_k: Count | None = None
    top_p: Annotated[float, "in (0, 1]"] = 1.0
    stop: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if not _is_whole(self.max_new_tokens, 1):
            problems.append(
                f"max_new_tokens must be a whole number >= 1, got {self.max_new_tokens}; "
                "try max_new_tokens=128"
            )
        if not _is_number(self.temperature) or self.temperature < 0:
            problems.append(
                f"temperature must be >= 0, got {self.temperature}; "
                "try temperature=1, or temperature=0 for the likeliest token"
            )
        if self.top_k is not None and not _is_whole(self.top_k, 1):
            problems.append(
                f"top_k must be a whole number >= 1 or null for all tokens, got {self.top_k}; "
                "try top_k=50"
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            problems.append(f"top_p must be in (0, 1], got {self.top_p}; try top_p=0.95")
        if self.stop is not None and not _is_whole(self.stop, 0):
            problems.append(
                f"stop must be a token id >= 0 or null for none, got {self.stop}; try stop=null"
            )
        if problems:
            raise ValueError("\n".join(problems))


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
