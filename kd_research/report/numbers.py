"""Values and their differences as people read them: fractions in percent, or in points."""

from __future__ import annotations

from typing import Any

from kd_research.report.sweep import is_fraction


def show(name: str, value: Any, std: float | None = None) -> str:
    """A value for people: fractions as percent, counts with thousands, the rest in 4 digits."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if is_fraction(name):
        spread = f" ± {100 * std:.2f}" if std is not None else ""
        return f"{100 * value:.2f}{spread}%"
    spread = f" ± {std:.2g}" if std else ""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}{spread}"
    return f"{value:.4g}{spread}"


def show_gap(name: str, value: float, half_width: float | None = None, sign: str = "+") -> str:
    """A difference for people, or how large one may be: of fractions in points, unsaid.

    Args:
        name: of the metric or cost.
        value: the difference.
        half_width: of its interval.
        sign: "+" before what is positive, or "".
    """
    scale, digits = (100, ".2f") if is_fraction(name) else (1, ".4g")
    spread = "" if half_width is None else f" ± {scale * half_width:{digits}}"
    return f"{scale * value:{sign}{digits}}{spread}"
