"""The storage of a study, which may be away for a while: every call is tried again for minutes.

Workers run on meanwhile: they need their folders alone.
"""

from __future__ import annotations

import copy
import json
import math
import sqlite3
import time
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)

from kd_research.records.outside import OutsideError
from kd_research.records.printable import masked

STUDY_NAME = "study.db"
PATIENCE_SECONDS = 600.0
WAIT_SECONDS = 0.5  # between two tries, at first
LOOK_SECONDS = 0.2  # between two looks for other sweepers, where Optuna itself reads the trials
READ_SECONDS = 5.0  # between two readings of all trials: a person's dashboard may write too


def open_storage(url: str | None, directory: Path) -> PatientStorage:
    """The storage at `url`; by default SQLite in the sweep's folder.

    Args:
        url: of SQLAlchemy, as in postgresql+psycopg2://user@host/name, or grpc://host:port of a
            proxy that `optuna.storages.run_grpc_proxy_server` runs.
        directory: the sweep's.
    """
    if url is not None and url.startswith("grpc://"):
        host, _, port = url.removeprefix("grpc://").partition(":")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return PatientStorage(
                optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
            )
    if url is not None and not url.startswith("sqlite:"):
        return PatientStorage(optuna.storages.get_storage(_on_server(url)))
    how: dict[str, Any] = {"connect_args": {"timeout": 60}}
    if url is None:  # no URL says every path: ? and # mean something in it
        path = directory.resolve() / STUDY_NAME
        how = {"creator": lambda: sqlite3.connect(path, timeout=60, check_same_thread=False)}
    storage = RDBStorage(url or f"sqlite:///{STUDY_NAME}", engine_kwargs=how)
    # A third of the time per trial, and readers never wait; a killed process loses nothing.
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()
    return PatientStorage(optuna.storages.get_storage(storage))


def _on_server(url: str, tries: int = 5) -> RDBStorage:
    """Several machines may make the tables at the same moment: all but one then try again."""
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except (IntegrityError, ProgrammingError):
        if tries == 1:
            raise
        time.sleep(0.5)
        return _on_server(url, tries - 1)


def _write_ahead(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def is_away(error: BaseException) -> bool:
    """Whether an error of a storage says that it does not answer, now."""
    cause = error.__cause__ or error
    if type(cause).__module__.startswith("grpc"):
        code = getattr(cause, "code", lambda: None)()
        return getattr(code, "name", "") in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
    if isinstance(cause, DBAPIError) and "sqlite3" in type(cause.orig).__module__:
        return "locked" in str(cause.orig)
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(cause, OperationalError | InterfaceError)


def _patient(name: str) -> Callable[..., Any]:
    def call(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        if name.startswith("set_trial_"):
            self._changed.add(named["trial_id"] if "trial_id" in named else arguments[0])
        return self.patiently(getattr(self.storage, name), *arguments, **named)

    return call


_METHODS = [name for name in dir(BaseStorage) if not name.startswith("_")]
_Forwarding: Any = type("_Forwarding", (BaseStorage,), {name: _patient(name) for name in _METHODS})


class PatientStorage(_Forwarding):  # type: ignore[misc]
    """Another storage, each of whose calls is tried again while it does not answer.

    A call that was carried out although its answer was lost is not undone: a trial that nobody
    knows of is taken up as that of a dead sweeper, one that is told twice was told.

    And while nobody else writes into the study, what it holds is known from the last reading and
    from what was written through this one since. Optuna reads every unfinished trial anew whenever
    it is asked for the trials, three times a trial: with many slots that is most of what a sweeper
    does.

    Args:
        storage: the other.

    Attributes:
        outages: times that it was away.
        patient: whether a call waits while it is away.
        marks: attributes that a new trial has from its first moment.
        others: what they that write into the study besides this process have left there, where
            they are all dead; None where one may live.
    """

    def __init__(self, storage: BaseStorage):
        self.storage = storage
        self.outages = 0
        self.patient = True
        self.marks: dict[str, Any] = {}
        self.others: Callable[[], Any] = lambda: None
        self._known: dict[int, FrozenTrial] = {}  # by id, in the order of the ids
        self._changed: set[int] = set()  # trials written since they were read, by id
        self._read_at, self._read_beside = -math.inf, None
        self._beside_at, self._last_beside = -math.inf, None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A new trial's id; what it has from its first moment is written with it."""
        if template_trial is None and self.marks:
            template_trial = create_trial(state=TrialState.RUNNING, user_attrs=self.marks)
        made: int = self.patiently(self.storage.create_new_trial, study_id, template_trial)
        self._changed.add(made)
        return made

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Write one value of a proposal."""
        given = (trial_id, param_name, param_value_internal, distribution)
        with self._written(trial_id) as trial:
            self.patiently(self.storage.set_trial_param, *given)
            if trial is not None:
                value = distribution.to_external_repr(param_value_internal)
                trial.params = {**trial.params, param_name: value}
                trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute of a trial."""
        with self._written(trial_id) as trial:
            self.patiently(self.storage.set_trial_user_attr, trial_id, key, value)
            if trial is not None:
                trial.user_attrs = {**trial.user_attrs, key: json.loads(json.dumps(value))}

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Write a trial's state and values; False where another was first to run it."""
        given = (trial_id, state, values)
        if not state.is_finished():
            self._changed.add(trial_id)
            return bool(self.patiently(self.storage.set_trial_state_values, *given))
        with self._written(trial_id) as trial:
            done = bool(self.patiently(self.storage.set_trial_state_values, *given))
            if trial is not None:
                trial.state, trial.values = state, values
                trial.datetime_complete = datetime.now()
        if not done:
            self._changed.add(trial_id)
        return done

    @contextmanager
    def _written(self, trial_id: int) -> Iterator[FrozenTrial | None]:
        """What is known of a trial, for what is written to have its place there; None: nothing.

        A trial that was given out stays as it was. Where the writing fails, it is read again.
        """
        trial = None if trial_id in self._changed else copy.copy(self._known.get(trial_id))
        self._changed.add(trial_id)
        yield trial
        if trial is not None:
            self._know(trial)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The trials by number, those of `states` alone where they are given."""
        beside = self._beside()  # before the reading: who comes after it leaves something new
        old = time.monotonic() - self._read_at > READ_SECONDS
        if beside is None or beside != self._read_beside or old:
            self._changed.clear()
            found = self.patiently(self.storage.get_all_trials, study_id, deepcopy=False)
            self._known = {trial._trial_id: trial for trial in found}  # they come by number
            self._read_at, self._read_beside = time.monotonic(), beside
        for trial_id in sorted(self._changed):
            self._read(trial_id)
        trials = list(self._known.values())
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def look_for_others(self) -> None:
        """Have the next reading ask whether another sweeper lives, however short ago one did."""
        self._beside_at = -math.inf

    def _beside(self) -> Any:
        if time.monotonic() - self._beside_at > LOOK_SECONDS:
            self._last_beside = self.others()
            self._beside_at = time.monotonic()
        return self._last_beside

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial, to keep; what another sweeper has done to it, writing to it tells."""
        known = self._known.get(trial_id)
        if known is None or trial_id in self._changed or self._read_beside is None:
            known = self._read(trial_id)
        return known if known.state.is_finished() else copy.deepcopy(known)

    def _read(self, trial_id: int) -> FrozenTrial:
        found: FrozenTrial = self.patiently(self.storage.get_trial, trial_id)
        self._know(found)
        return found

    def _know(self, trial: FrozenTrial) -> None:
        last = next(reversed(self._known), -1)
        is_late = trial._trial_id not in self._known and trial._trial_id < last
        self._known[trial._trial_id] = trial
        self._changed.discard(trial._trial_id)
        if is_late:  # another sweeper's, which was asked for before
            self._known = dict(sorted(self._known.items()))

    def patiently(self, action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Do it, now or when the storage answers again.

        Raises:
            OutsideError: it has not answered for PATIENCE_SECONDS.
        """
        since, pause = time.monotonic(), WAIT_SECONDS
        while True:
            try:
                return action(*arguments, **named)
            except Exception as error:
                if not is_away(error):
                    raise
                said = masked(" ".join(str(error.__cause__ or error).split()))[:200]
                if not self.patient or time.monotonic() - since > PATIENCE_SECONDS:
                    self.patient = False  # whoever puts trials back now does not wait again
                    raise OutsideError(f"the study's storage does not answer ({said})") from None
                if pause == WAIT_SECONDS:
                    self.outages += 1
                    print(
                        f"the study's storage does not answer ({said}); it is tried again for "
                        f"{PATIENCE_SECONDS / 60:.0f} minutes, the trials run on",
                        flush=True,
                    )
                time.sleep(pause)
                pause = min(5.0, 1.5 * pause)
