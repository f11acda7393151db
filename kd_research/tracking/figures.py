"""The pictures of runs and sweeps that W&B shows, as Plotly figures: no W&B here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from kd_research.report.baseline import WHO, baseline

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from kd_research.report.importances import Importance
    from kd_research.report.sweep import Sweep, Trial

# Okabe and Ito's colours, which stay apart for colour-blind readers.
GREY, BLUE, ORANGE, GREEN = "#999999", "#0072B2", "#D55E00", "#009E73"


def axes(sweep: Sweep) -> tuple[str, str | None]:
    """The objective to go up, for y, and the first other one, for x; None where there is none."""
    names = list(sweep.objectives)
    gains = [name for name in names if sweep.objectives[name] == "maximize"]
    y = (gains or names)[0]
    return y, next((name for name in names if name != y), None)


def front_figure(sweep: Sweep) -> go.Figure:
    """Accuracy against size, or what the sweep's objectives are: the front over all trials.

    Hovering shows a trial's number and settings. Several seeds are one point at their mean with
    their standard deviation as its bar. With one objective, x is the trial's number.
    """
    import plotly.graph_objects as go

    y, x = axes(sweep)
    front = {trial.number for trial in sweep.front}
    shown = [
        trial for trial, point in zip(sweep.trials, sweep.points, strict=True) if None not in point
    ]
    rest = [trial for trial in shown if trial.number not in front]
    best = sorted(
        (trial for trial in shown if trial.number in front), key=lambda trial: _place(trial, x)
    )
    figure = go.Figure()
    figure.add_trace(_points(go, rest, x, y, "dominated", {"color": GREY, "size": 7}))
    line = _points(go, best, x, y, "Pareto front", {"color": BLUE, "size": 10})
    line.mode = "lines+markers" if len(sweep.objectives) == 2 else "markers"
    figure.add_trace(line)
    if (plain := baseline(sweep)) is not None:
        marker = {"color": GREEN, "size": 11, "symbol": "diamond"}
        figure.add_trace(_points(go, [plain], x, y, WHO, marker))
    for teacher in sweep.teachers:
        if y in teacher:
            figure.add_hline(
                teacher[y], line_dash="dash", line_color=ORANGE, annotation_text="teacher"
            )
    places = [_place(trial, x) for trial in shown]
    wide = x is not None and bool(places) and min(places) > 0 and max(places) > 20 * min(places)
    figure.update_layout(
        title=f"{sweep.name}: {len(front)} of {len(sweep.trials)} trials on the front",
        xaxis={"title": x or "trial", "type": "log" if wide else "linear"},
        yaxis={"title": y},
        hovermode="closest",
        template="plotly_white",
    )
    return figure


def _points(
    go: Any, trials: list[Trial], x: str | None, y: str, name: str, marker: dict[str, Any]
) -> go.Scatter:
    spreads = [trial.std(y) for trial in trials]
    return go.Scatter(
        x=[_place(trial, x) for trial in trials],
        y=[trial.mean(y) for trial in trials],
        error_y={"type": "data", "array": [spread or 0.0 for spread in spreads]}
        if any(spreads)
        else None,
        text=[_settings(trial) for trial in trials],
        hovertemplate=f"%{{text}}<br>{x or 'trial'} %{{x}}<br>{y} %{{y:.4f}}<extra></extra>",
        mode="markers",
        marker=marker,
        name=name,
    )


def _place(trial: Trial, x: str | None) -> float:
    return float(trial.number) if x is None else trial.mean(x) or 0.0


def _settings(trial: Trial) -> str:
    who = f"trial {trial.number}" + (f" {trial.label}" if trial.label else "")
    lines = [who, *(f"{name} {_short(value)}" for name, value in trial.params.items())]
    return "<br>".join(lines)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def confusion_figure(counts: Sequence[Sequence[int]]) -> go.Figure:
    """Which class the student names (columns) where the teacher names which (rows).

    Args:
        counts: (C, C) examples; the diagonal, where both agree, is left blank, so that the
            disagreements show. Hovering has all counts.
    """
    import plotly.graph_objects as go

    classes = [str(index) for index in range(len(counts))]
    shown = [
        [None if row == column else value for column, value in enumerate(values)]
        for row, values in enumerate(counts)
    ]
    total = sum(map(sum, counts))
    agreed = sum(values[row] for row, values in enumerate(counts))
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=classes,
            y=classes,
            customdata=counts,
            colorscale="Blues",
            hovertemplate="teacher %{y}, student %{x}: %{customdata}<extra></extra>",
            hoverongaps=True,
        )
    )
    figure.update_layout(
        title=f"validation: the student agrees on {agreed} of {total}",
        xaxis={"title": "student says", "type": "category"},
        yaxis={"title": "teacher says", "type": "category", "autorange": "reversed"},
        template="plotly_white",
    )
    return figure


def importance_figure(found: Mapping[str, Importance]) -> go.Figure:
    """How much each setting explains of each objective, one group of bars an objective."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for color, (objective, importance) in zip(cycle((BLUE, ORANGE, GREY)), found.items()):
        figure.add_bar(
            x=list(importance.shares.values()),
            y=list(importance.shares),
            error_x={"type": "data", "array": list(importance.spreads.values())},
            name=f"{objective} (out-of-bag R² {importance.r2:.2f})",
            orientation="h",
            marker={"color": color},
        )
    figure.update_layout(
        title="which settings explain the objectives (permutation importance)",
        xaxis={"title": "share"},
        yaxis={"autorange": "reversed"},
        barmode="group",
        template="plotly_white",
    )
    return figure
