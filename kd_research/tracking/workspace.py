"""The dashboard of a sweep as code: a W&B workspace, so that who syncs finds no blank page.

Needs `wandb-workspaces` (the extra `workspaces`). The specification is made offline; only
`save()` talks to the server.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from kd_research.report.sweep import Sweep
from kd_research.tracking.figures import axes

CURVES = ("val_accuracy", "val_nll", "train_loss", "lr")
FAITHFULNESS = ("teacher_agreement", "accuracy_retention", "val_ece", "val_nll")


def workspace(sweep: Sweep, entity: str, project: str) -> Any:
    """The sweep's workspace: its objectives against each other, settings, curves, faithfulness.

    Args:
        sweep: the trials; those of other sweeps in the project are filtered out by their group.
        entity: W&B's team or user.
        project: W&B's project.

    Raises:
        ModuleNotFoundError: wandb-workspaces is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it still uses what pydantic is about to drop
        import wandb_workspaces.workspaces as ws
    y, x = axes(sweep)
    sections = [
        ws.Section("Front", panels=_front_panels(sweep, y, x), is_open=True),
        ws.Section("Settings", panels=_setting_panels(sweep), is_open=True),
        ws.Section("Curves", panels=_curve_panels(), is_open=True),
        ws.Section("Faithfulness", panels=_faithfulness_panels(sweep, y)),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"sweep {sweep.name}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(filters=ws.And(ws.Metric("Group") == sweep.name)),
    )


def specification(made: Any) -> Mapping[str, Any]:
    """What `save()` would send, in plain containers."""
    found: Mapping[str, Any] = made._to_model().model_dump(mode="json", by_alias=True)
    return found


def _front_panels(sweep: Sweep, y: str, x: str | None) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    panels: list[Any] = [
        wr.MediaBrowser(title="the front, and what explains it", media_keys=_MEDIA),
        wr.LinePlot(title="hypervolume by number of trials", x="num_trials", y=["hypervolume"]),
    ]
    if x is not None:
        best = {"maximize": "running_ymax", "minimize": "running_ymin"}[sweep.objectives[y]]
        scatter = wr.ScatterPlot(
            title=f"{y} against {x}",
            x=wr.SummaryMetric(x),
            y=wr.SummaryMetric(y),
            log_x=_is_wide(sweep, x),
            **{best: True},
        )
        panels.insert(0, scatter)
    return panels


_MEDIA = ["front_chart", "importances", "trials", "front"]


def _setting_panels(sweep: Sweep) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    names = [name for name in sweep.param_names if _is_plain(sweep, name)]
    metrics = [wr.Config(name) for name in names] + list(map(wr.SummaryMetric, sweep.objectives))
    columns = [wr.ParallelCoordinatesPlotColumn(metric) for metric in metrics]
    panels: list[Any] = [wr.ParallelCoordinatesPlot(title="settings", columns=columns)]
    return panels + [wr.ParameterImportancePlot(with_respect_to=o) for o in sweep.objectives]


def _curve_panels() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.LinePlot(title=name, x="epoch", y=[name]) for name in CURVES]


def _faithfulness_panels(sweep: Sweep, y: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    shown = [name for name in FAITHFULNESS if name in sweep.value_names and name != y]
    scatters = [
        wr.ScatterPlot(title=f"{y} against {name}", x=wr.SummaryMetric(name), y=wr.SummaryMetric(y))
        for name in shown
    ]
    return [*scatters, wr.MediaBrowser(media_keys=["student_against_teacher"])]


def _is_wide(sweep: Sweep, name: str) -> bool:
    """Whether values span more than a decade, all of them above 0."""
    values = [value for trial in sweep.trials for value in trial.values(name)]
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def _is_plain(sweep: Sweep, name: str) -> bool:
    """Whether it is one value in the configuration, not a group such as `loss`."""
    return "." in name or any(
        isinstance(trial.params.get(name), int | float) for trial in sweep.trials
    )
