"""Where a sweep's trials lie: a folder a trial, in it one a seed, each with its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from kd_research.records.record import PROPOSAL_NAME, read_text, write_json, write_text
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

    def propose(self, number: int, params: Mapping[str, Value]) -> None:
        """Write what the trial is, for whoever reads its folder."""
        path = self.trial(number) / PROPOSAL_NAME
        if not path.exists():
            label, settings = self.plan.composition.described(params)
            write_json(path, {"number": number, "label": label, "params": settings})

    def configs(self, number: int, params: Mapping[str, Value]) -> dict[Path, DictConfig]:
        """The run folders of a trial and their configurations."""
        found = {}
        for index, directory in enumerate(self.runs(number)):
            config = self.plan.composition.compose(params)
            config.seed = config.seed + index
            config.tracking.group = str(self.settings.name)
            config.tracking.job_type = "trial"
            suffix = f"-s{index}" if self.settings.seeds > 1 else ""
            config.tracking.run_id = f"{self.settings.name}-t{number:04d}{suffix}"
            found[directory] = config
        return found


def count_loss(run: Path) -> int:
    """One more process of the run has ended without a record; how many, with other sweepers'."""
    path = run / LOST_NAME
    try:
        count = int(read_text(path)) + 1
    except (FileNotFoundError, ValueError):  # none yet, or damaged: it only bounds the retries
        count = 1
    write_text(path, f"{count}\n")
    return count
