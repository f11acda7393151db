"""The front as a figure for a paper: SVG, PDF or PNG, by the file's suffix, through matplotlib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from kd_research.report.baseline import WHO, baseline
from kd_research.report.sweep import Sweep, Trial, is_fraction

SUFFIXES = (".svg", ".pdf", ".png")
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#9aa3ab"  # Okabe and Ito


def write_figure(sweep: Sweep, path: Path) -> None:
    """Draw the first two objectives, the cost as x; seeds as error bars, the teacher dashed.

    Raises:
        ValueError: the suffix is not one of SUFFIXES, or there are not two objectives.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a figure must end in {', '.join(SUFFIXES)}, got {path.name}")
    if len(sweep.objectives) < 2:
        raise ValueError(f"a front needs two objectives, {sweep.directory} has one")
    from matplotlib.figure import Figure  # 0.5 s that only a figure costs
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    first, second = list(sweep.objectives)[:2]
    x, y = (second, first) if sweep.objectives[first] == "maximize" else (first, second)
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    front = sorted(sweep.front, key=lambda trial: trial.mean(x) or 0.0)
    members = {trial.number for trial in front}
    done = [t for t in sweep.trials if t.state == "completed" and t.number not in members]
    plain = [trial for trial in sweep.trials if trial.state == "completed" and trial.undistilled]
    reference = baseline(sweep)
    plain += [reference] if reference and reference not in plain else []

    def draw(trials: list[Trial], colour: str, label: str, mark: str, size: float) -> None:
        if trials:
            axes.errorbar(
                _scaled(x, [trial.mean(x) for trial in trials]),
                _scaled(y, [trial.mean(y) for trial in trials]),
                xerr=_scaled(x, [trial.std(x) for trial in trials]),
                yerr=_scaled(y, [trial.std(y) for trial in trials]),
                fmt=mark,
                color=colour,
                ms=size,
                elinewidth=0.8,
                label=label,
            )

    draw(done, GREY, "dominated", "o", 3)
    if len(sweep.objectives) == 2:
        where: Literal["post", "pre"] = "post" if sweep.objectives[x] == "minimize" else "pre"
        xs, ys = ([trial.mean(name) for trial in front] for name in (x, y))
        axes.step(_scaled(x, xs), _scaled(y, ys), where=where, color=BLUE, lw=1)
    draw(front, BLUE, "front", "o", 4.5)
    draw(plain, GREEN, WHO, "D", 4)
    for number, teacher in enumerate(sweep.teachers[:3]):
        if y in teacher:
            name = "teacher" if number == 0 else None
            level = _scaled(y, [teacher[y]])[0]
            axes.axhline(level, color=ORANGE, ls="--", lw=1, label=name)
    values = [value for trial in [*done, *front] if (value := trial.mean(x)) is not None]
    if values and min(values) > 0 and max(values) / min(values) > 8:
        axes.set_xscale("log")
        if max(values) / min(values) < 100:  # else a label or two would be all
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())  # they would stand on each other
    axes.set_xlabel(_title(x))
    axes.set_ylabel(_title(y))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(temporary, dpi=200)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _scaled(name: str, values: list[float | None]) -> list[float]:
    return [(100 if is_fraction(name) else 1) * (value or 0.0) for value in values]


def _title(name: str) -> str:
    return name.replace("_", " ") + (" (%)" if is_fraction(name) else "")
