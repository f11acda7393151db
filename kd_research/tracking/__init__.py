"""Where runs are shown: W&B, or TensorBoard or CSV. Nothing else in the package imports wandb.

W&B is a mirror: `metrics.jsonl` and `record.json` are the truth, and nothing here can stop a run.
Whatever W&B raises (not installed, no login, no network, its service killed) gives one warning
line, and the run goes on. It never prompts and prints nothing of its own. Its files go to
`<output_dir>/wandb` alone; in offline mode no connection is made at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_research.configuration.ranks import is_first_process
from kd_research.records.printable import printable, typed
from kd_research.tracking.run import Tracker, WandbTracker, run_name
from kd_research.tracking.session import AHEAD, run_files, wandb_session

__all__ = ["Tracker", "imported_ahead", "tell_offline", "track", "track_export", "track_sweep"]

PART_OF_SWEEP = ("trial", "baseline")  # kinds of runs that their sweep tells of
WANDB = ("offline", "online")  # modes


@contextmanager
def track(
    config: Mapping[str, Any], directory: Path, noted: Mapping[str, Any] | None = None
) -> Iterator[Tracker]:
    """Show what happens in the body as one run, finished in every case.

    Only the process of rank 0 does.

    Args:
        config: the resolved configuration in plain containers. `tracking` has mode, project,
            entity, group, job_type, run_id and tags; `output_dir` says where W&B's files go. The
            data set's name and those of the loss's terms are tags.
        directory: the run's folder, noted in W&B's config.
        noted: W&B's config: the configuration without what is secret; None: it has nothing such.

    Raises:
        ModuleNotFoundError: TensorBoard was asked for and is not installed.
    """
    tracking = config["tracking"]
    mode = tracking["mode"]
    if mode == "disabled" or not is_first_process():
        yield Tracker()
    elif mode in ("tensorboard", "csv"):
        from kd_research.tracking.loggers import log_to_files  # imports Lightning

        with log_to_files(mode, directory) as tracker:
            yield tracker
    else:
        output_dir = Path(config["output_dir"])
        run_id = tracking.get("run_id") or run_name(directory, output_dir)
        own = {**tracking, "tags": _tags(config), "run_id": run_id}
        content = {**(config if noted is None else noted), "run_directory": str(directory)}
        with wandb_session(own, output_dir, content) as mirror:
            yield WandbTracker(mirror, directory)


def imported_ahead(
    tracking: Mapping[str, Any], output_dir: str
) -> tuple[str, dict[str, str]] | None:
    """What a server imports so that its trials need not: a module, and the variables it reads.

    Args:
        tracking: of the trials.
        output_dir: theirs.

    Returns:
        None where the trials import nothing of that kind.
    """
    mode = tracking["mode"]
    return (f"{__name__}.ahead", {AHEAD: f"{mode} {output_dir}"}) if mode in WANDB else None


def track_sweep(directory: Path, tracking: Mapping[str, Any]) -> None:
    """One summary run of the sweep in W&B: tables, charts, the hypervolume by number of trials.

    Its id is `<name>-sweep`, so that a resumed sweep replaces it; the teachers that it used get a
    run each. Only the files of the sweep's folder are read, so it can be made again at any time.

    Args:
        directory: the sweep's folder.
        tracking: mode, project, entity and tags, as for `track`, and output_dir.
    """
    if tracking["mode"] in WANDB and is_first_process():
        from kd_research.tracking.sweep import log_sweep  # a trial needs no report

        log_sweep(directory, tracking)


def tell_offline(config: Mapping[str, Any], directory: Path) -> None:
    """Say where the offline files of a run or sweep are, and what uploads them, if there are any.

    Args:
        config: its `tracking` and `output_dir`; a sweep's `tracking.run_id` is its summary's.
        directory: its folder.
    """
    tracking = config.get("tracking") or {}
    if tracking.get("mode") not in WANDB or not is_first_process():
        return
    output_dir = Path(config["output_dir"])
    run_id = tracking.get("run_id") or run_name(directory, output_dir)
    if tracking.get("job_type") in PART_OF_SWEEP or not run_files(output_dir, run_id):
        return
    where = output_dir / "wandb"
    upload = f"python -m kd_research.tracking sync {typed(directory)}"
    print(printable(f"W&B offline: the files are in {where}; this uploads them:\n  {upload}"))


def track_export(
    config: Mapping[str, Any], directory: Path, files: Sequence[Path], values: Mapping[str, Any]
) -> None:
    """One W&B run of an export: its files as an artifact that is made from the run's student.

    Args:
        config: of the exported run, resolved, in plain containers.
        directory: that run's folder.
        files: what was exported.
        values: what was measured of them, e.g. bytes, accuracy, latency; numbers and words.
    """
    if config["tracking"]["mode"] in WANDB and is_first_process():
        from kd_research.tracking.export import log_export

        log_export(config, directory, files, values)


def _tags(config: Mapping[str, Any]) -> list[str]:
    loss = config.get("loss") or {}
    named = [(config.get("dataset") or {}).get("name"), *(loss.get("terms") or {})]
    return list(dict.fromkeys([*(config["tracking"].get("tags") or ()), *filter(None, named)]))
