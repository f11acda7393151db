"""The loop of a sweep: asks Optuna (through `study.py`), runs every proposal in its own process.

A proposal becomes a trial folder with a complete config.yaml (one a seed); workers run the
folders; what their record.json say is told to the study. Nothing else passes between the two.
`sweep.n_trials` is a total: the same command finishes what is left, several at once share it, and
a trial that a dead sweeper left running is taken up from its folder.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from kd_research.configuration.config import save
from kd_research.pools.local import End, Handle, Pool
from kd_research.records.outside import Held, OutsideError, ended_by, is_full, trouble
from kd_research.records.record import (
    CONFIG_NAME,
    RECORD_NAME,
    STOP_NAME,
    stopped_record,
    write_json,
    write_record,
)
from kd_research.sweep import folders as places
from kd_research.sweep import identity
from kd_research.sweep.dominated import due_runs
from kd_research.sweep.live_curves import Follower
from kd_research.sweep.objective_values import Values
from kd_research.sweep.opening import tell_result
from kd_research.sweep.plan import Plan
from kd_research.sweep.progress import Progress
from kd_research.sweep.proposals import ORIGIN, Proposals
from kd_research.sweep.rehearsal import prepare
from kd_research.sweep.storage import STUDY_NAME
from kd_research.sweep.study import SharedStudy

POLL_SECONDS = 0.5  # between two looks at what runs
SEARCH_SECONDS = 1.0  # between two looks for trials that nobody runs
BUSY_SECONDS = 5.0  # between two readings of the study where no slot is free for what is there


class Sweep:
    """The loop between the study and the workers.

    Args:
        plan: what to run.
        study: entered.
        pool: where.
    """

    def __init__(self, plan: Plan, study: SharedStudy, pool: Pool):
        self.plan, self.study, self.pool = plan, study, pool
        self.directory, self.settings = plan.directory, plan.config.sweep
        self.folders = places.Folders(plan)
        self.follower = Follower(self.folders, plan.objectives, self.settings.early_stopping)
        self.proposals = Proposals(study, plan.composition)
        self.values = Values(plan.objectives, plan.constraints)
        self.waiting: list[Path] = []  # run folders to start
        self.running: dict[Path, Handle] = {}
        self.wanted: dict[Path, str] = {}  # run folder -> what its record's configuration must be
        self.trials: dict[int, Trial] = {}  # asked or taken up, not yet told
        self.told: list[int] = []
        database = self.directory / STUDY_NAME
        self.held = Held(self.directory, *([database] if database.exists() else []))

    def run(self) -> bool:
        """Ask, run and tell until `n_trials` trials are finished; False if they all were."""
        name, total = self.settings.name, self.plan.n_trials
        self.study.refresh()
        done = self.study.finished
        if self._is_done():
            ended = self.study.exhausted or self.plan.rows
            more = "no other point" if ended else "raise sweep.n_trials for more"
            print(f"sweep {name}: all {done} trials are done; {more}")
            return False
        total = self.proposals.limit(total)
        prepare(self.plan, self.pool, self.study.beat)
        print(
            f"sweep {name}: {total - done} of {total} trials to run, {self.pool.slots} at a time, "
            f"into {self.directory}",
            flush=True,
        )
        with Progress(self.plan.objectives, total, done) as self.progress:
            try:
                while self._step():
                    pass
            except BaseException:
                try:
                    self.pool.kill(list(self.running.values()))
                finally:
                    self.study.release(list(self.trials.values()))
                self.progress.note("stopped: the trials in flight are put back")
                raise
        if gone := [number for number in self.told if not self.folders.trial(number).exists()]:
            raise OutsideError(f"the folders of finished trials were removed: {gone[:10]}")
        return True

    def _step(self) -> bool:
        """Fill the slots, wait a little, collect what has ended; False when all is done."""
        self.held.check()
        self.study.beat()
        busy = len(self.running) >= self.pool.slots
        self.study.refresh(older_than=BUSY_SECONDS if busy else POLL_SECONDS)
        if self._is_done():
            return False
        for trial in self.study.left_over(older_than=BUSY_SECONDS if busy else SEARCH_SECONDS):
            self._take_up(trial, self.proposals.of(trial) if self.plan.rows else trial.params)
        self._fill()
        if self.running:
            self._stop_late()
            self._stop_dominated()
            ended = self.pool.wait(list(self.running.values()), POLL_SECONDS)
            for handle in ended:
                del self.running[handle.directory]
            for handle in ended:
                self._collect(handle)
        else:
            time.sleep(POLL_SECONDS)  # the rest is another sweeper's
        self.progress.show(self.study.finished, list(self.running))
        return True

    def _is_done(self) -> bool:
        exhausted = self.study.exhausted and not self.study.running
        return exhausted or self.study.finished >= self.plan.n_trials

    def _fill(self) -> None:
        """Give every free slot its next run."""
        while len(self.running) < self.pool.slots:
            if self.waiting:
                directory = self.waiting.pop(0)
                self.running[directory] = self.pool.submit(directory, processes=self.plan.processes)
                continue
            if (asked := self.proposals.ask(self.plan.n_trials)) is None:
                break
            self._take_up(*asked)

    def _take_up(self, trial: Trial, params: dict[str, Any]) -> None:
        """Write the folders of a trial, new or left by a dead sweeper; queue what is not run."""
        if not self.plan.composition.is_complete(params):
            self.proposals.put_back(trial)  # killed between the proposal's parts; nothing was run
            return
        number = trial.number
        self.trials[number] = trial
        wanted = identity.proposal(self.plan, number, params)
        if origin := trial.user_attrs.get(ORIGIN):
            wanted[ORIGIN] = origin
        identity.propose(self.folders.trial(number), wanted)
        try:
            for directory, plain in self.folders.written(number, params).items():
                self.wanted[directory] = identity.run_digest(plain)
                if not (directory / RECORD_NAME).exists():
                    save(plain, directory / CONFIG_NAME)
        except Exception as error:  # a proposal that does not compose is a failed trial
            self.held.check()
            if trouble(error, self.directory):
                raise
            places.check_removed(error, self.directory)
            reason = f"{type(error).__name__}: {error}"
            for directory in self.folders.runs(number):  # the record is of the whole proposal
                self.wanted.pop(directory, None)
            places.close_run(self.folders.trial(number), self.plan.config, reason)
            self._tell(number)
        else:
            self._go_on(number)

    def _go_on(self, number: int) -> None:
        """Queue what is left of a trial; tell the study where nothing is.

        The first seed of a proposal runs before the others, which may not be worth their time.
        """
        runs, flying = self.folders.runs(number), {*self.waiting, *self.running}
        due = [path for path in runs if not (path / RECORD_NAME).exists()]
        if self.settings.prune_dominated is not None and not self.plan.rows:
            trials, names = self.study.completed(), self.plan.objectives
            due, reason = due_runs(runs, trials, names, self.settings.prune_dominated)
            for path in runs if reason else ():
                if not (path / RECORD_NAME).exists():
                    places.close_run(path, places.config_of(path), str(reason), "pruned")
        self.waiting[:0] = [path for path in due if path not in flying]
        self._tell(number)

    def _stop_dominated(self) -> None:
        """End the runs whose curves show that they will be on no front."""
        if self.follower.rule is None:
            return
        found = self.follower.stops(self.running, self.study.completed())
        for directory, stop in found.items():
            write_json(directory / STOP_NAME, asdict(stop))
        self.pool.kill([self.running.pop(directory) for directory in found])
        for directory in found:
            if not (directory / RECORD_NAME).exists():  # it could not write it itself
                write_record(stopped_record(places.config_of(directory), directory), directory)
                shutil.rmtree(directory / "checkpoints", ignore_errors=True)
            (directory / STOP_NAME).unlink()
            self._tell(self.folders.number(directory))

    def _stop_late(self) -> None:
        """End the runs that have taken longer than they may; that is their own fault."""
        limit = self.settings.trial_timeout
        late = [
            handle
            for handle in self.running.values()
            if limit is not None and time.monotonic() - handle.started > limit
        ]
        if not late:
            return
        self.pool.kill([self.running.pop(handle.directory) for handle in late])
        for handle in late:
            reason = f"it ran longer than sweep.trial_timeout={limit:g} seconds"
            self._collect(handle, End(reason, outside=False))

    def _collect(self, handle: Handle, end: End | None = None) -> None:
        """A run has ended: try again, or see that it has a record and tell its trial."""
        directory, end = handle.directory, end or handle.end()
        assert end is not None
        number = self.folders.number(directory)
        if number not in self.trials:  # another seed has ended it meanwhile
            return
        if not (directory / RECORD_NAME).exists():
            self.held.check()
            if end.put_back or is_full(self.directory):
                told = ended_by(directory, places.last_line(directory), end.reason)
                if not directory.exists():
                    told = f"{directory} was removed"
                raise OutsideError(told)
            tries = places.count_loss(directory)
            if end.outside and tries <= self.settings.max_retries:
                self.progress.note(
                    f"{directory.relative_to(self.directory)}: {end.reason}; it goes on "
                    f"(retry {tries} of {self.settings.max_retries})"
                )
                self.waiting.insert(0, directory)
                return
            often = f", {tries} times" if tries > 1 else ""
            reason = end.reason + often + places.more_in_log(directory)
            places.close_run(directory, places.config_of(directory), reason)
        self._go_on(number)

    def _tell(self, number: int) -> None:
        """Tell the study, once every run of the trial has a record, or one ended it."""
        folders = self.folders.runs(number)
        everywhere = {self.folders.trial(number), *folders}
        present = [path for path in everywhere if (path / RECORD_NAME).exists()]
        records = [places.record_of(path) for path in sorted(present)]
        for path, record in zip(sorted(present), records, strict=True):
            identity.check_record(record, path, self.wanted.get(path))
        ended = any(record.status != "completed" for record in records)
        if number not in self.trials or (len(records) < len(folders) and not ended):
            return
        # The other seeds of an ended proposal are not worth their time.
        self.waiting = [path for path in self.waiting if path not in folders]
        flying = [self.running.pop(path) for path in folders if path in self.running]
        if flying:
            self.pool.kill(flying)
        first, result = tell_result(self.study, self.trials[number], self.values, records)
        del self.trials[number]
        if first:
            self.told.append(number)
            self.study.refresh()
            self.progress.told(
                number, result.values, result.reason, self.study.finished, self.study.best()
            )
