"""The Optuna study that sweepers share: who owns which trial, what is left, what died.

Any number of sweepers, on any number of machines, may work on one study. A trial in flight has an
owner. A sweeper on this machine holds a file lock, which the system drops the moment it dies; one
elsewhere is known by its beat in the study, and given up when that has stood still. What a dead
sweeper left running is taken up under its own number, so that its folder goes on.
"""

from __future__ import annotations

import math
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from kd_research.records.outside import OutsideError
from kd_research.sweep.seeding import SeedOnFirstTrial
from kd_research.sweep.storage import PatientStorage

DISCARDED = "discarded"  # a proposal that is no trial: incomplete, or one more than was asked for
OWNER = "owner"
BEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0  # without a beat, for a sweeper that shares no disk with this one

optuna.logging.set_verbosity(optuna.logging.ERROR)


class SharedStudy:
    """One sweeper's view of the study.

    Args:
        name: of the study.
        storage: where it is.
        directory: the sweep's, for the locks of the sweepers that share it.
        objectives: name -> maximize or minimize.
        sampler: a factory that takes `seed`.
        seed: of the sampler.
    """

    def __init__(
        self,
        name: str,
        storage: PatientStorage,
        directory: Path,
        objectives: Mapping[str, str],
        sampler: Callable[..., BaseSampler],
        seed: int,
    ):
        self.directory = directory
        self.study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=list(objectives.values()),  # type: ignore[arg-type]
            load_if_exists=True,
        )
        self.objectives = list(objectives)
        self.exhausted = bool(self.study.user_attrs.get("exhausted"))  # a finite space
        self._sampler: BaseSampler | None = SeedOnFirstTrial(sampler, seed)
        self.owner = f"{socket.gethostname()}:{secrets.token_hex(4)}"
        self._lock = FileLock(self._lock_path(self.owner))
        self._claims = FileLock(directory / "sweepers" / "claims.lock")
        self._beat_count, self._next_beat = 0, 0.0
        self._beats: dict[str, tuple[Any, float]] = {}  # owner -> its last beat, when seen first
        self._storage, self._outages = storage, 0
        storage.others, storage.marks = self.signs_of_the_dead, {OWNER: self.owner}
        self._first_open = self._counted_before = 0  # all trials before it are finished
        self._read_at = self._searched_at = -math.inf
        self._trials: list[FrozenTrial] = []
        self.settled: list[FrozenTrial] = []  # of those before `_first_open`, the ones that count
        self._settled_completed: list[FrozenTrial] = []
        self._settled_best: float | None = None  # of these, in the first objective
        self.finished = 0  # trials that count, of all sweepers
        self.running: list[FrozenTrial] = []
        self.teachers: dict[str, Any] = {}  # what the study said of them when it was last asked

    def name_objectives(self) -> None:
        """Write the objectives' names into the study, once it is known to be this sweep's."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names(self.objectives)

    def __enter__(self) -> SharedStudy:
        self._lock_path(self.owner).parent.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        self.beat()
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.release()
        self._lock_path(self.owner).unlink(missing_ok=True)

    def _lock_path(self, owner: str) -> Path:
        return self.directory / "sweepers" / f"{owner.rpartition(':')[2]}.lock"

    def beat(self) -> None:
        """Show the others, every few seconds, that this sweeper lives."""
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + BEAT_SECONDS
        self._beat_count += 1
        sign = {"beat": self._beat_count, "directory": str(self.directory)}
        self.study.set_user_attr(f"sweeper {self.owner}", sign)

    def refresh(self, older_than: float = 0.0) -> None:
        """Read the trials, if the last reading is so many seconds old; each costs milliseconds."""
        if time.monotonic() - self._read_at < older_than:
            return
        self._storage.look_for_others()
        self._trials = self.study.get_trials(deepcopy=False)
        self._read_at = time.monotonic()
        finished, unfinished = self._counted_before, []
        for trial in self._trials[self._first_open :]:
            if not trial.state.is_finished():
                unfinished.append(trial)
            elif DISCARDED not in trial.user_attrs:
                finished += 1
                if not unfinished:
                    self.settled.append(trial)
                    if trial.state == TrialState.COMPLETE:
                        self._settled_completed.append(trial)
                        self._settled_best = self._best_of([self._settled_best, trial.values[0]])
            if not unfinished:
                self._first_open, self._counted_before = trial.number + 1, finished
        self.finished = finished
        self.running = [trial for trial in unfinished if trial.state == TrialState.RUNNING]

    def counted(self) -> list[FrozenTrial]:
        """The proposals that are trials, of all sweepers, when they were last read."""
        return [*self.settled, *self.unsettled()]

    def unsettled(self) -> list[FrozenTrial]:
        """Those of `counted` that are not in `settled`: a few, however many trials there are."""
        left = self._trials[self._first_open :]
        return [trial for trial in left if DISCARDED not in trial.user_attrs]

    def completed(self) -> list[FrozenTrial]:
        """The trials that have values, of all sweepers, when they were last read."""
        left = [trial for trial in self.unsettled() if trial.state == TrialState.COMPLETE]
        return [*self._settled_completed, *left]

    def best(self) -> float | None:
        """The best value of the first objective, as last read."""
        left = [trial.values[0] for trial in self.unsettled() if trial.state == TrialState.COMPLETE]
        return self._best_of([self._settled_best, *left])

    def _best_of(self, values: Sequence[float | None]) -> float | None:
        choose = max if self.study.directions[0] == StudyDirection.MAXIMIZE else min
        return choose((value for value in values if value is not None), default=None)

    def ask(self, total: int) -> Trial | None:
        """A new trial of this sweeper's, without parameters yet; None where there are enough.

        Args:
            total: how many trials there shall be, of all sweepers together.
        """
        while not self.exhausted and self.finished + len(self.running) < total:
            if self._sampler is not None:
                self.study.sampler, self._sampler = self._sampler, None
            trial = self.study.ask()
            if not self._own(trial):
                self.refresh()
                continue
            if trial.number < total:  # so many at most were before it
                return trial
            self.refresh()
            before = self._trials[self._first_open : trial.number]
            rank = self._counted_before + sum(DISCARDED not in one.user_attrs for one in before)
            if rank < total:
                return trial
            # Another sweeper asked for the last one at the same moment, and was first.
            self.discard(trial)
            self.refresh()
        return None

    def discard(self, trial: Trial) -> None:
        """Take a proposal out of the count."""
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            trial.set_user_attr(DISCARDED, True)
        self.tell(trial, None)

    def left_over(self, older_than: float = 0.0) -> list[Trial]:
        """Running trials whose sweeper is dead, now this one's.

        They are looked for if the last look is so many seconds old.
        """
        if not self._others() or time.monotonic() - self._searched_at < older_than:
            return []
        self._searched_at = time.monotonic()
        with self._claims:
            self.refresh()
            signs = self._signs()
            if (outages := self._storage.outages) != self._outages:
                self._outages = outages
                self._beats.clear()  # the storage was away: nobody could show that it lives
            left = [trial for trial in self._others() if self._is_left(trial, signs)]
            claimed = [Trial(self.study, trial._trial_id) for trial in left]
            return [trial for trial in claimed if self._own(trial)]

    def _signs(self) -> dict[str, Any]:
        """Of every sweeper that there ever was: its owner's name -> its last beat."""
        attributes = self._storage.get_study_user_attrs(self.study._study_id)
        return {
            key.removeprefix("sweeper "): sign
            for key, sign in attributes.items()
            if key.startswith("sweeper ")
        }

    def signs_of_the_dead(self) -> dict[str, Any] | None:
        """The signs of all other sweepers; None where one of them may live."""
        signs = self._signs()
        signs.pop(self.owner, None)
        return signs if all(self._is_dead(*other) for other in signs.items()) else None

    def _others(self) -> list[FrozenTrial]:
        return [trial for trial in self.running if trial.user_attrs.get(OWNER) != self.owner]

    def _own(self, trial: Trial) -> bool:
        """Make a trial this sweeper's; False if another has finished it since it was read."""
        if trial.user_attrs.get(OWNER) == self.owner:  # since it was made
            return True
        try:
            trial.set_user_attr(OWNER, self.owner)
        except optuna.exceptions.UpdateFinishedTrialError:
            self._read_at = -math.inf
            return False
        return True

    def _is_left(self, trial: FrozenTrial, signs: Mapping[str, Any]) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is None:  # a moment old, or its sweeper died in that moment
            alone = all(self._is_dead(*other) for other in signs.items() if other[0] != self.owner)
            return alone or self._stands_still(f"trial {trial.number}", None, BEAT_SECONDS)
        return owner == "" or self._is_dead(owner, signs.get(owner, {}))

    def _is_dead(self, owner: str, sign: Mapping[str, Any]) -> bool:
        here = owner.partition(":")[0] == socket.gethostname()
        if here and sign.get("directory") == str(self.directory):
            return self.is_free(self._lock_path(owner))
        return self._stands_still(owner, sign.get("beat"), DEAD_SECONDS)

    def _stands_still(self, what: str, beat: Any, seconds: float) -> bool:
        """Whether `beat` has been the same for so long, by this machine's own clock."""
        now = time.monotonic()
        known, since = self._beats.get(what, (None, now))
        if what not in self._beats or known != beat:
            self._beats[what] = (beat, now)
            return False
        return now - since > seconds

    @staticmethod
    def is_free(path: Path) -> bool:
        """Whether the sweeper of this lock is dead."""
        if not path.exists():
            return True
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def release(self, trials: Sequence[Trial]) -> None:
        """Put trials in flight back, for whoever comes next.

        Where the storage is away, or its disk is full, they are those of a dead sweeper.
        """
        self._storage.patient = False
        with suppress(OutsideError, optuna.exceptions.StorageInternalError, OSError):
            for trial in trials:
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    trial.set_user_attr(OWNER, "")

    def tell(self, trial: Trial, values: Sequence[float] | None) -> bool:
        """Finish a trial, as failed without values; False if another sweeper already has."""
        self._read_at = -math.inf
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        try:
            self.study.tell(trial, values, state=state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        except RuntimeError as error:  # the sampler has tried every point there is, and says so
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True
            self.study.set_user_attr("exhausted", True)
        return True
