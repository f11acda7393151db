"""A sweep from its plan to its report: study, pool, loop, baseline, page, tracking."""

from __future__ import annotations

from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

from kd_research.configuration.config import ConfigError
from kd_research.records.outside import OutsideError, trouble
from kd_research.report import write_report
from kd_research.sweep.baseline import run_baseline
from kd_research.sweep.loop import Sweep as Sweep
from kd_research.sweep.opened_pool import opened_pool
from kd_research.sweep.opening import open_study
from kd_research.sweep.plan import Plan
from kd_research.tracking import tell_offline, track_sweep

UNTRACKED = "untracked"  # a file: what is new was not shown by the tracker, as after a kill


def run_sweep(plan: Plan, quiet: bool = False) -> None:
    """Run what is left of the plan, then write the report (unless quiet, print it) and track it.

    Raises:
        ConfigError: the folder holds a sweep with other settings, the parts do not fit together,
            or no trial was completed (not where it is quiet, as a part of a comparison is).
        OutsideError: no room, or the storage, the disk or the folder is away; the trials in
            flight are put back.
    """
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
        with open_study(plan) as study, opened_pool(plan) as pool:
            untracked = plan.directory / UNTRACKED
            something_new = untracked.exists()
            untracked.touch()
            something_new |= Sweep(plan, study, pool).run() | run_baseline(plan, pool, study.beat)
            num_completed = len(study.completed())
        with FileLock(plan.directory / "report.lock"):  # sweepers that share a study end together
            report = write_report(plan.directory)
            if not quiet:
                report.print()
            if report.unwritten:
                raise OutsideError(report.unwritten[0])
            tracking: Any = OmegaConf.to_container(plan.config.tracking, resolve=True)
            output_dir = plan.config.output_dir
            if something_new:
                track_sweep(plan.directory, {**tracking, "output_dir": output_dir})
            untracked.unlink(missing_ok=True)
            if not quiet:
                own = {**tracking, "run_id": f"{plan.config.sweep.name}-sweep"}
                tell_offline({"tracking": own, "output_dir": output_dir}, plan.directory)
    except Exception as error:
        if reason := trouble(error, plan.directory):
            raise OutsideError(reason) from error
        raise
    if not num_completed and not quiet:
        logs = plan.directory / "trials"
        raise ConfigError([f"no trial was completed; the logs in {logs} say why"])
