"""What one run shows in W&B: its curves, its result, its confusion and its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_research.records.record import EVALUATION_NAME, RunRecord, read_json
from kd_research.tracking.session import Mirror, safe_id

WEIGHTS_NAME = "weights.pt"
MAX_CLASSES = 200  # of a confusion that is still a picture

Row = Mapping[str, float | int | str | None]


class Tracker:
    """Takes what a run measures; this one keeps nothing: tracking is disabled, or not ours."""

    def log(self, row: Row) -> None:
        """One row of metrics.jsonl."""

    def finish(self, record: RunRecord) -> None:
        """The run's result."""


class WandbTracker(Tracker):
    """Into W&B.

    Args:
        mirror: the started run.
        directory: the run's folder: its evaluation and its weights are shown at the end.
    """

    def __init__(self, mirror: Mirror, directory: Path) -> None:
        self._mirror, self._directory = mirror, directory
        mirror.attempt(lambda run: run.define_metric("epoch"))
        mirror.attempt(lambda run: run.define_metric("*", step_metric="epoch"))

    def log(self, row: Row) -> None:
        """Mirror one row of metrics.jsonl; what is None was not measured and is left out."""
        known = {key: value for key, value in row.items() if value is not None}
        self._mirror.attempt(lambda run: run.log(known))

    def finish(self, record: RunRecord) -> None:
        """The record's metrics and costs, flat, in the summary; its origin in the config.

        The selected epoch's values replace those of the last epoch, which the curves still show.
        """
        self._mirror.exit_code = int(record.status == "failed")
        self._mirror.attempt(lambda run: _show_confusion(run, self._directory))
        result = {**record.metrics, **record.costs, "error": record.error, "status": record.status}
        known = {key: value for key, value in result.items() if value is not None}
        self._mirror.attempt(lambda run: run.summary.update(known))
        origin = {"provenance": record.provenance, "selection": record.selection}
        self._mirror.attempt(lambda run: run.config.update(origin, allow_val_change=True))
        if record.status == "completed" and (self._directory / WEIGHTS_NAME).is_file():
            self._mirror.attempt(lambda run: log_student(run, self._directory, record))


def _show_confusion(run: Any, directory: Path) -> None:
    """Where student and teacher differ on validation, as a chart, if it was evaluated."""
    path = directory / EVALUATION_NAME
    if not path.is_file():
        return
    counts = read_json(path).get("val", {}).get("teacher_confusion")
    if counts and len(counts) <= MAX_CLASSES:
        import wandb

        from kd_research.tracking.figures import confusion_figure

        run.log({"student_against_teacher": wandb.Plotly(confusion_figure(counts))})


def log_student(run: Any, directory: Path, record: RunRecord) -> None:
    """The student's weights as an artifact, and the teacher's as what it was made from.

    Offline no artifact can be used, W&B says: the names in the metadata keep the lineage, and
    `python -m kd_research.tracking sync` draws it.
    """
    import wandb

    teacher = teacher_artifact(record)
    values = {**record.metrics, **record.costs, "teacher": teacher.name if teacher else None}
    student = wandb.Artifact(student_name(run.id), "student", metadata=values)
    # Immutable: not copied into a staging area, which would double a sweep's disk.
    student.add_file(str(directory / WEIGHTS_NAME), policy="immutable")
    if teacher and not run.offline:
        run.use_artifact(teacher)
    run.log_artifact(student)


def run_name(directory: Path, output_dir: Path) -> str:
    """The id of a run that was given none: its folder's path, so that a rerun replaces it."""
    inside = directory.is_relative_to(output_dir) and directory != output_dir
    return (directory.relative_to(output_dir) if inside else directory).as_posix().strip("/")


def student_name(run_id: str) -> str:
    """What the artifact of a run's student is called."""
    return f"student-{safe_id(run_id)}"


def teacher_name(record: RunRecord) -> str | None:
    """What the teacher's artifact and its run are called, by its content; None without one."""
    fingerprint = record.provenance.get("teacher_fingerprint")
    return f"teacher-{fingerprint[:16]}" if fingerprint else None


def teacher_artifact(record: RunRecord) -> Any:
    """The teacher's weights; None where there is no file of them."""
    import wandb

    path, name = record.provenance.get("teacher_path"), teacher_name(record)
    if not path or not name or not Path(path).is_file():
        return None
    values = {
        name.removeprefix("teacher_"): value
        for name, value in {**record.metrics, **record.costs}.items()
        if name.startswith("teacher_")
    }
    found = wandb.Artifact(name, "teacher", metadata=values)
    found.add_file(path, policy="immutable")
    return found
