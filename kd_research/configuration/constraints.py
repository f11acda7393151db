"""Limits on a student, as in `sweep.constraints=["num_params <= 20000"]`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FORM = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+.\deE]+)\s*")


@dataclass(frozen=True)
class Constraint:
    """One limit.

    Attributes:
        name: of a metric or cost.
        sign: "<=" or ">=".
        bound: what it is compared with.
    """

    name: str
    sign: str
    bound: float

    def excess(self, value: float) -> float:
        """By how much a value breaks the limit; <= 0 where it keeps it."""
        return value - self.bound if self.sign == "<=" else self.bound - value

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.bound:g}"


def parse(
    texts: Iterable[str], names: Sequence[str] | None = None
) -> tuple[list[Constraint], list[str]]:
    """The constraints, and what is wrong with them, a line each.

    Args:
        texts: as a user writes them.
        names: of the metrics and costs that there are; None asks for no check.
    """
    found, problems = [], []
    for text in texts:
        match = FORM.fullmatch(str(text))
        try:
            if match is None:
                raise ValueError
            constraint = Constraint(match[1], match[2], float(match[3]))
        except ValueError:
            problems.append(f"sweep.constraints: {text!r} is no limit; try 'num_params <= 20000'")
            continue
        if names is not None and constraint.name not in names:
            problems.append(
                f"sweep.constraints: unknown {constraint.name}; there are: {', '.join(names)}"
            )
        found.append(constraint)
    return found, problems
