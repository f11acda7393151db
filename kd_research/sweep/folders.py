"""Where a sweep's trials lie: a folder a trial, in it one a seed, each with its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kd_research.records.outside import OutsideError
from kd_research.records.record import (
    CONFIG_NAME,
    LOG_NAME,
    RunRecord,
    read_record,
    read_text,
    write_record,
    write_text,
)
from kd_research.sweep.plan import Plan
from kd_research.sweep.space import Value

SEED_PREFIX = "seed-"
LOST_NAME = ".lost"  # in a run's folder: how many of its processes ended without a record


class Folders:
    """The folders of a plan's trials."""

    def __init__(self, plan: Plan):
        self.plan, self.settings = plan, plan.config.sweep

    def trial(self, number: int) -> Path:
        """The folder of a trial."""
        return self.plan.directory / "trials" / f"{number:04d}"

    def runs(self, number: int) -> list[Path]:
        """The run folders of a trial, one a seed; with one seed the trial's own."""
        folder, seeds = self.trial(number), self.settings.seeds
        if seeds == 1:
            return [folder]
        return [folder / f"{SEED_PREFIX}{index}" for index in range(seeds)]

    def number(self, run: Path) -> int:
        """The trial that a run folder belongs to."""
        return int((run.parent if run.name.startswith(SEED_PREFIX) else run).name)

    def written(self, number: int, params: Mapping[str, Value]) -> dict[Path, dict[str, Any]]:
        """The run folders of a trial and their configurations, as they are written."""
        compose = self.plan.composition.written
        return {
            directory: compose(params, index, self._tracking(number, index))
            for index, directory in enumerate(self.runs(number))
        }

    def configs(self, number: int, params: Mapping[str, Value]) -> dict[Path, DictConfig]:
        """The same as they are composed, not resolved."""
        found = {}
        for index, directory in enumerate(self.runs(number)):
            config = self.plan.composition.compose(params)
            config.seed = config.seed + index
            config.tracking.update(self._tracking(number, index))
            found[directory] = config
        return found

    def _tracking(self, number: int, index: int) -> dict[str, str]:
        suffix = f"-s{index}" if self.settings.seeds > 1 else ""
        run_id = f"{self.settings.name}-t{number:04d}{suffix}"
        return {"group": str(self.settings.name), "job_type": "trial", "run_id": run_id}


def count_loss(run: Path) -> int:
    """One more process of the run has ended without a record; how many, with other sweepers'."""
    path = run / LOST_NAME
    try:
        count = int(read_text(path)) + 1
    except (FileNotFoundError, ValueError):  # none yet, or damaged: it only bounds the retries
        count = 1
    write_text(path, f"{count}\n")
    return count


def config_of(run: Path) -> dict[str, Any]:
    """The configuration of a run; {"seed": 0} where its file is gone or damaged."""
    try:
        plain: Any = OmegaConf.to_container(OmegaConf.load(run / CONFIG_NAME))
        return plain if isinstance(plain, dict) and "seed" in plain else {"seed": 0}
    except Exception:  # YAML's own types, OmegaConf's, the system's
        return {"seed": 0}


def record_of(run: Path) -> RunRecord:
    """The record of a run that has one; a failed one where it cannot be read."""
    try:
        return read_record(run)
    except ValueError as error:
        return RunRecord("failed", {}, 0, error=str(error))


def close_run(run: Path, config: Any, reason: str, status: str = "failed") -> None:
    """Write the record of a run that could not, or should not, write it itself."""
    plain = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    write_record(RunRecord(status, plain, plain["seed"], error=reason), run)  # type: ignore[arg-type, call-overload, index]


def last_line(run: Path, name: str = LOG_NAME) -> str:
    """What a run's log.txt ends with, or another file; nothing where it is empty."""
    try:
        lines = read_text(run / name).split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def more_in_log(run: Path) -> str:
    """Where more is said of a run's end; a process that is killed says nothing."""
    return "; see log.txt" if last_line(run) else ""


def check_removed(error: Exception, directory: Path) -> None:
    """Tell a missing file in the sweep's folder from an error of the proposal's own.

    Raises:
        OutsideError: a folder below `directory` was removed while it was written to.
    """
    removed = isinstance(error, FileNotFoundError) and Path(str(error.filename))
    if removed and directory in removed.parents:
        raise OutsideError(f"{removed.parent} was removed") from error
