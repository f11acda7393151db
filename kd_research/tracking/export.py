"""The run of an export: the files that ship, as an artifact made from the student's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_research.tracking.run import run_name, student_name
from kd_research.tracking.session import safe_id, wandb_session


def export_id(run_id: str) -> str:
    """The id of the export of the run with this id."""
    return f"{run_id}-export"


def log_export(
    config: Mapping[str, Any], directory: Path, files: Sequence[Path], values: Mapping[str, Any]
) -> None:
    """See `track_export`."""
    tracking, output_dir = config["tracking"], Path(config["output_dir"])
    run_id = tracking.get("run_id") or run_name(directory, output_dir)
    own = {**tracking, "job_type": "export", "run_id": export_id(run_id)}
    noted = {"run_directory": str(directory), "student": student_name(run_id)}
    with wandb_session(own, output_dir, noted) as mirror:
        mirror.attempt(lambda run: _fill(run, run_id, files, values))


def _fill(run: Any, run_id: str, files: Sequence[Path], values: Mapping[str, Any]) -> None:
    import wandb

    known = {key: value for key, value in values.items() if value is not None}
    run.summary.update(known)
    student = student_name(run_id)
    artifact = wandb.Artifact(
        f"export-{safe_id(run_id)}", "export", metadata={**known, "student": student}
    )
    for file in files:
        artifact.add_file(str(file), policy="immutable")
    if not run.offline:
        run.use_artifact(f"{student}:latest")
    run.log_artifact(artifact)
