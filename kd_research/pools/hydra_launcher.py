"""Runs by Hydra's launchers (basic, joblib, submitit): `pool=launcher hydra/launcher=joblib`.

A launcher returns when the last of its jobs has ended, so the sweep goes in batches: proposals are
launched together, and a slot that frees waits for the others. A job starts the run in a process of
its own, as `python -m kd_research.trial DIR` does, and waits for it: a worker that a launcher uses
again stays clean, and a killed run is not a killed worker, which would end the whole batch.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from kd_research.configuration.resolvers import register_resolvers
from kd_research.pools.local import GRACE_SECONDS, End, cores, ended_with, killed_by
from kd_research.pools.slurm import command
from kd_research.records.record import LOG_NAME, RECORD_NAME

STOP_NAME = ".stop"  # in a run's folder: its job, wherever it is, ends it
POLL_SECONDS = 0.2
STOPPED = "stopped"

register_resolvers()  # also in a launcher's worker, which imports this module alone


@dataclass
class LauncherHandle:
    """One job of a batch."""

    directory: Path
    action: str
    started: float = math.inf  # until its job has begun
    outcome: End | None = None

    def end(self) -> End | None:
        """How it ended; None until its whole batch has."""
        return self.outcome


class _Batch:
    """The jobs of one call of a launcher, which returns only when all of them have ended."""

    def __init__(self, launcher: Any, handles: Sequence[LauncherHandle], first: int):
        self.launcher, self.handles, self.first = launcher, handles, first
        self.done = threading.Event()
        self.returns: Sequence[JobReturn] = ()
        self.error: BaseException | None = None

    def launch(self) -> None:
        """Launch and wait."""
        places = [(handle.directory.parent, handle.directory.name) for handle in self.handles]
        overrides = [
            [f"hydra.sweep.dir={_quoted(parent)}", f"hydra.sweep.subdir={_quoted(name)}"]
            for parent, name in places
        ]
        try:
            self.returns = self.launcher.launch(overrides, initial_job_idx=self.first)
        except BaseException as error:  # whatever a launcher raises costs its batch a try
            self.error = error
        self.done.set()


def _launch_all(batches: SimpleQueue[_Batch]) -> None:
    while True:
        batches.get().launch()


class LauncherPool:
    """Batches of a Hydra launcher.

    Args:
        slots: jobs of a batch; None: as many as this machine has cores.
        devices_per_trial: unused; Lightning starts the other ranks of a run.
        program: the module whose command line is a run.
    """

    def __init__(
        self,
        slots: int | None = None,
        devices_per_trial: int = 1,
        program: str = "kd_research.trial.run",
    ):
        self.slots, self.program = slots or cores(), program
        self._pending: list[LauncherHandle] = []
        self._batch: _Batch | None = None
        self._launched = 0
        # One thread for all: what a launcher starts may end with the thread that started it.
        self._queue: SimpleQueue[_Batch] = SimpleQueue()
        launching = threading.Thread(target=_launch_all, args=(self._queue,), daemon=True)
        launching.start()

    def connect(self, loader: Any, config: DictConfig) -> None:
        """Hand over what launchers are made from: Hydra's loader, the composed configuration."""
        config = config.copy()  # launchers pickle it, into files and for other machines
        with read_write(config), open_dict(config):
            config.sweep.storage = None
            config.hydra.overrides.task = []
            config.hydra.job.override_dirname = ""
        self._loader, self._config = loader, config

    def submit(self, directory: Path, action: str = "main", processes: int = 1) -> LauncherHandle:
        """Put the folder into the next batch."""
        (directory / STOP_NAME).unlink(missing_ok=True)
        handle = LauncherHandle(directory, action)
        self._pending.append(handle)
        return handle

    def wait(self, handles: Sequence[LauncherHandle], seconds: float) -> list[LauncherHandle]:
        """All of a batch at once, when it has ended; the next one starts when this is called."""
        if self._batch is None and self._pending:
            batch, self._pending = self._pending, []
            self._batch = _Batch(self._launcher(batch[0].action), batch, self._launched)
            self._launched += len(batch)
            self._queue.put(self._batch)
        if self._batch is None:
            time.sleep(seconds)
            return [handle for handle in handles if handle.end() is not None]
        self._batch.done.wait(seconds)
        for handle in self._batch.handles:
            if handle.started == math.inf and not _is_free(handle.directory):
                handle.started = time.monotonic()
        if self._batch.done.is_set():
            _settle(self._batch)
            self._batch = None
        return [handle for handle in handles if handle.end() is not None]

    def _launcher(self, action: str) -> Any:
        return Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=self._loader, callbacks=Callbacks()),
            task_function=partial(run_job, self.program, action),
            config=self._config,
        )

    def kill(self, handles: Sequence[LauncherHandle]) -> None:
        """Have their jobs end them, the waiting ones before they start, and see that they did."""
        for handle in handles:
            (handle.directory / STOP_NAME).touch()
        gone = set(map(id, handles))
        self._pending = [handle for handle in self._pending if id(handle) not in gone]
        deadline = time.monotonic() + GRACE_SECONDS + 10 * POLL_SECONDS
        for handle in handles:
            while not _is_free(handle.directory) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Nothing: a launcher ends what it started with its last job."""


def run_job(program: str, action: str, _: DictConfig) -> int | str:
    """What a launcher runs, on this machine or another: the folder's run, to its end.

    Returns:
        The exit code of the run's process; "stopped" if the sweeper did not want it any more.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    folder = os.open(directory, os.O_RDONLY)
    try:
        while not _lock(folder):  # a run that a dead sweeper or worker left
            if (directory / STOP_NAME).exists():
                return STOPPED
            time.sleep(POLL_SECONDS)
        if action == "main" and (directory / RECORD_NAME).exists():
            return 0
        return _run(program, action, directory, folder)
    finally:
        os.close(folder)


def _run(program: str, action: str, directory: Path, folder: int) -> int | str:
    """The run holds the folder's lock as well: should this job be killed, it is not run twice."""
    with (directory / LOG_NAME).open("ab") as log:
        process = subprocess.Popen(
            command(program, action, directory),
            stdout=log,
            stderr=log,
            pass_fds=[folder],
            start_new_session=True,
        )
    stop = directory / STOP_NAME
    try:
        while process.poll() is None and not stop.exists():
            time.sleep(POLL_SECONDS)
        if process.returncode is not None:
            return process.returncode
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.returncode is None or _has_group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return STOPPED


def _has_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _lock(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(directory: Path) -> bool:
    """Whether nothing runs the folder."""
    folder = os.open(directory, os.O_RDONLY)
    try:
        return _lock(folder)
    finally:
        os.close(folder)


def _settle(batch: _Batch) -> None:
    """Say of every job of a batch how it ended."""
    if batch.error is not None:
        reason = f"its launcher failed: {type(batch.error).__name__}: {batch.error}"
        for handle in batch.handles:
            handle.outcome = End(reason, outside=True)
        return
    for handle, job in zip(batch.handles, batch.returns, strict=True):
        handle.outcome = _outcome(job)


def _outcome(job: JobReturn) -> End:
    if job.status != JobStatus.COMPLETED:
        error = job._return_value
        return End(f"its job failed: {type(error).__name__}: {error}", outside=True)
    code = job.return_value
    if code == STOPPED:
        return End("it was stopped", outside=True)
    if code < 0:
        return End(killed_by(-code), outside=True)
    return ended_with(code)


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
