"""Runs the baseline: the front's leader once more, from the labels alone.

The leader is the front's best trial by the first objective that is no cost. Its baseline has its
student, recipe, data and seeds, the loss of `loss=ce`, and the real examples where its own were
made of the teacher. It is run by the sweep's pool after the last trial, in `baseline/NUMBER` beside
`trials/NUMBER`; no study is told of it. None is needed where the leader itself, or another row of a
sweep of rows, learned from the labels alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig

from kd_research.configuration.config import save
from kd_research.pools.local import End, Handle, Pool
from kd_research.records.outside import OutsideError, ended_by, is_full, trouble
from kd_research.records.printable import printable
from kd_research.records.record import CONFIG_NAME, PROPOSAL_NAME, RECORD_NAME, write_json
from kd_research.report import load_sweep
from kd_research.report.baseline import baseline, leader
from kd_research.report.damage import read_proposal
from kd_research.report.load import BASELINE
from kd_research.report.sweep import Trial
from kd_research.sweep import folders as places
from kd_research.sweep.identity import run_digest
from kd_research.sweep.plan import Plan

POLL_SECONDS = 0.5


def run_baseline(plan: Plan, pool: Pool, beat: Callable[[], None]) -> bool:
    """Run what is left of the baseline, if one is wanted; whether something was run.

    That it fails is told, and fails no sweep.

    Args:
        plan: of the sweep, whose trials are all finished.
        pool: where its runs happen.
        beat: called while it lasts.

    Raises:
        OutsideError: it was ended from outside; the same command goes on.
    """
    if not plan.config.sweep.get("baseline", True):
        return False
    with FileLock(plan.directory / "baseline.lock"):  # sweepers that share a study end together
        sweep = load_sweep(plan.directory)
        first = leader(sweep)
        if first is None or baseline(sweep) is not None:
            return False
        try:
            configs = _configs(plan, first)
            runs = [path for path, config in configs.items() if not _is_run(path, config)]
            if not runs:
                return False
            print(f"baseline: the student of trial {first.number} from labels alone", flush=True)
            _write(plan, first, {path: configs[path] for path in runs})
            _Baseline(plan, pool, beat).run(runs)
        except Exception as error:
            if trouble(error, plan.directory):
                raise
            print(printable(f"baseline: not run ({type(error).__name__}: {error})"), flush=True)
            return False
    for path in runs:
        record = places.record_of(path)
        if record.status == "failed":
            reason = printable((record.error or "no reason recorded").splitlines()[0])
            print(f"baseline: failed ({reason}); the sweep stands without it", flush=True)
    return True


def _configs(plan: Plan, first: Trial) -> dict[Path, DictConfig]:
    """The runs of the leader, one a seed, with the loss replaced."""
    proposal = read_proposal(first.directory)
    places_of = places.Folders(plan).configs(
        first.number, proposal.get("asked", proposal["params"])
    )
    found = {}
    for path, config in places_of.items():
        config.loss = plan.composition.labels_alone()
        config.transfer = {}  # the labels of real examples, not the teacher's of made ones
        config.tracking.job_type = "baseline"
        own = str(config.tracking.run_id).removeprefix(f"{plan.config.sweep.name}-")
        config.tracking.run_id = f"{plan.config.sweep.name}-baseline-{own}"
        found[plan.directory / BASELINE / path.relative_to(first.directory.parent)] = config
    return found


def _is_run(path: Path, config: DictConfig) -> bool:
    """Whether there is a record of this very run, be it a failed one."""
    if not (path / RECORD_NAME).exists():
        return False
    record = places.record_of(path)
    return record.config.keys() <= {"seed"} or run_digest(record.config) == run_digest(config)


def _write(plan: Plan, first: Trial, configs: dict[Path, DictConfig]) -> None:
    params = {key: value for key, value in first.params.items() if key.partition(".")[0] != "loss"}
    content = {"number": first.number, "label": first.label, "params": params}
    write_json(plan.directory / BASELINE / first.directory.name / PROPOSAL_NAME, content)
    for path, config in configs.items():
        (path / RECORD_NAME).unlink(missing_ok=True)  # of another configuration
        save(config, path / CONFIG_NAME)


class _Baseline:
    """The runs of a baseline in a pool, started again as the trials' are."""

    def __init__(self, plan: Plan, pool: Pool, beat: Callable[[], None]):
        self.plan, self.pool, self.beat = plan, pool, beat
        self.settings = plan.config.sweep
        self.running: dict[Path, Handle] = {}

    def run(self, runs: Sequence[Path]) -> None:
        """Run all of them to a record each."""
        waiting = list(runs)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.pool.slots:
                    path = waiting.pop(0)
                    self.running[path] = self.pool.submit(path, processes=self.plan.processes)
                self.beat()
                for handle in self.pool.wait(list(self.running.values()), POLL_SECONDS):
                    del self.running[handle.directory]
                    end = handle.end()
                    assert end is not None
                    waiting += self._again(handle.directory, end)
                self._stop_late()
        except BaseException:
            self.pool.kill(list(self.running.values()))
            raise

    def _stop_late(self) -> None:
        limit = self.settings.trial_timeout
        for path, handle in list(self.running.items()):
            if limit is not None and time.monotonic() - handle.started > limit:
                self.pool.kill([self.running.pop(path)])
                self._again(path, End(f"it ran longer than sweep.trial_timeout={limit:g} seconds"))

    def _again(self, path: Path, end: End) -> list[Path]:
        """What is to be started again of a run that has ended: itself, or nothing."""
        if (path / RECORD_NAME).exists():
            return []
        if end.put_back or is_full(self.plan.directory):
            raise OutsideError(ended_by(path, places.last_line(path), end.reason))
        if end.outside and places.count_loss(path) <= self.settings.max_retries:
            return [path]
        reason = end.reason + places.more_in_log(path)
        places.close_run(path, places.config_of(path), reason)
        return []
