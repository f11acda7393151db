"""The runs that a sweep leaves in W&B beside its trials': its summary, and its teachers'."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kd_research.records.record import SWEEP_NAME, RunRecord, read_json
from kd_research.report.baseline import baseline
from kd_research.report.importances import importances
from kd_research.report.load import load_sweep
from kd_research.report.sweep import Run, Sweep
from kd_research.report.tables import best, front_rows, trial_rows
from kd_research.tracking.figures import front_figure, importance_figure
from kd_research.tracking.run import teacher_artifact, teacher_name
from kd_research.tracking.session import run_files, wandb_session


def log_sweep(directory: Path, tracking: Mapping[str, Any]) -> None:
    """Make the summary run and the teachers'; see `track_sweep`."""
    sweep = load_sweep(directory)
    spec = OmegaConf.to_container(OmegaConf.load(directory / SWEEP_NAME))
    output_dir, run_id = Path(tracking["output_dir"]), f"{sweep.name}-sweep"
    for record in _one_record_a_teacher(sweep):
        _log_teacher(record, tracking)
    own = {**tracking, "group": sweep.name, "job_type": "sweep", "run_id": run_id}
    with wandb_session(
        own, output_dir, {"sweep": spec, "sweep_directory": str(directory)}
    ) as mirror:
        mirror.attempt(lambda run: _fill(run, sweep))


def _fill(run: Any, sweep: Sweep) -> None:
    import wandb

    run.define_metric("num_trials")
    run.define_metric("hypervolume", step_metric="num_trials")
    for place, value in enumerate(sweep.hypervolume_history or ()):
        run.log({"num_trials": place + 1, "hypervolume": value})
    pages: dict[str, Any] = {"front_chart": wandb.Plotly(front_figure(sweep))}
    explained = importances(sweep)
    if explained:
        pages["importances"] = wandb.Plotly(importance_figure(explained))
    for name, rows in {"trials": trial_rows(sweep), "front": front_rows(sweep)}.items():
        columns: list[str | int] = list(rows[0]) if rows else ["trial"]
        data: list[Iterable[Any]] = [[_cell(value) for value in row.values()] for row in rows]
        pages[name] = wandb.Table(columns=columns, data=data, allow_mixed_types=True)
    run.log(pages)
    states = {f"num_{state}": number for state, number in sweep.counts.items()}
    best_values = {f"best_{name}": entry["value"] for name, entry in best(sweep).items()}
    plain = baseline(sweep)
    values = {name: plain.mean(name) for name in sweep.value_names} if plain else {}
    known = {f"baseline_{name}": value for name, value in values.items() if value is not None}
    run.summary.update({**states, **best_values, **known, "hypervolume": sweep.hypervolume})


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _one_record_a_teacher(sweep: Sweep) -> list[RunRecord]:
    """Of each teacher that the sweep used, a record of a student of it."""
    found = {}
    for trial in sweep.trials:
        for record in trial.records:
            path = record.provenance.get("teacher_path")
            if path and Path(path).is_file():
                found[record.provenance.get("teacher_fingerprint")] = record
    return list(found.values())


def _log_teacher(record: RunRecord, tracking: Mapping[str, Any]) -> None:
    """The teacher's run, from the folder it was trained in; once, as it never changes."""
    output_dir = Path(tracking["output_dir"])
    folder = Path(record.provenance["teacher_path"]).parent
    run_id = teacher_name(record)
    if run_id is None or run_files(output_dir, run_id):
        return
    own = {**tracking, "group": "teachers", "job_type": "teacher", "run_id": run_id}
    content = folder / "content.json"
    config = read_json(content) if content.is_file() else {}
    with wandb_session(own, output_dir, {**config, "run_directory": str(folder)}) as mirror:
        mirror.attempt(lambda run: run.define_metric("epoch"))
        mirror.attempt(lambda run: run.define_metric("*", step_metric="epoch"))
        for row in Run(folder, None).curves():
            mirror.attempt(lambda run, row=row: run.log(row))  # type: ignore[misc]
        mirror.attempt(lambda run: _log_weights(run, record))


def _log_weights(run: Any, record: RunRecord) -> None:
    artifact = teacher_artifact(record)
    run.summary.update(
        {key: value for key, value in artifact.metadata.items() if value is not None}
    )
    run.log_artifact(artifact)
