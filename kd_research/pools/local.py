"""Where runs happen, behind submit, wait and kill: here, processes forked from a warm server.

The server has imported torch, Lightning and the trial once; a run then is a fresh process for
about a tenth of a second, not the seconds of importing all that again. Nothing but its folder
passes to it: config.yaml in; record.json, metrics.jsonl and log.txt out.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import os
import runpy
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

from kd_research.pools.child import Part, hidden_main, run_folder
from kd_research.records.outside import PUT_BACK, OutsideError
from kd_research.records.variables import set_variables

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
SERVER_SECONDS = 30.0  # to get a killed server replaced
AHEAD_SECONDS = 10.0  # of these with what it imports ahead of need
FIRST = "kd_research.pools.server_start"  # of what its server imports
NVIDIA_GPUS = "/proc/driver/nvidia/gpus"  # a folder a GPU, by the driver
LOST_CODE = 255  # what multiprocessing says when the server itself was killed


@dataclass(frozen=True)
class End:
    """How a run's process ended.

    Attributes:
        reason: for a person.
        outside: whether something other than the run ended it, so that another try makes sense.
        put_back: whether it ended itself because something outside it was wrong, as a full disk:
            another try makes sense when that is mended.
        failed: whether it did not end as it should.
    """

    reason: str
    outside: bool = False
    failed: bool = True
    put_back: bool = False


class Handle(Protocol):
    """One run in flight."""

    directory: Path
    started: float  # time.monotonic() when it got its slot

    def end(self) -> End | None:
        """How it ended; None while it runs."""


class Pool(Protocol):
    """A place where runs happen."""

    slots: int

    def submit(self, directory: Path, action: str = "main", processes: int = 1) -> Handle:
        """Start `action` of the trial program on the folder, as so many ranks."""

    def wait(self, handles: Sequence[Handle], seconds: float) -> list[Handle]:
        """The handles that have ended, after at least one has or `seconds` have passed."""

    def kill(self, handles: Sequence[Handle]) -> None:
        """End them and all that they started: asked first, then made to."""

    def close(self) -> None:
        """Give back what it holds beyond the runs; there will be no other."""


@dataclass
class LocalHandle:
    """A process group on this machine."""

    directory: Path
    process: ForkServerProcess
    devices: int | None
    started: float

    def end(self) -> End | None:
        """How its first process ended; None while it lives."""
        code = self.process.exitcode
        if code is None:
            return None
        if code < 0:
            return End(killed_by(-code), outside=True)
        return ended_with(code)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, whatever of it is left."""
        assert self.process.pid is not None
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:  # gone, or not yet a group of its own
            if self.process.exitcode is None:
                with suppress(ProcessLookupError):
                    os.kill(self.process.pid, number)


class LocalPool:
    """Processes on this machine.

    Args:
        slots: runs at once; None: as many as cores allow, or as the GPUs do where there are any.
        devices_per_trial: processes, and GPUs, of one run; None: as its trainer.devices says.
        program: the module whose `main([directory])` is a run.
    """

    def __init__(
        self,
        slots: int | None = None,
        devices_per_trial: int = 1,
        program: str = "kd_research.trial.run",
    ):
        self.program, self.devices_per_trial = program, devices_per_trial
        self._devices = visible_gpus()
        available = len(self._devices) or cores()
        self.slots = slots or max(1, available // devices_per_trial)
        self._free = list(range(self.slots))
        self._context = multiprocessing.get_context("forkserver")
        self._ahead: str | None = None
        self._preload({})

    def import_ahead(self, module: str, variables: Mapping[str, str]) -> None:
        """Have the server import a module too, before the first run, with variables it reads."""
        self._ahead = module
        self._preload(variables, module)

    def _preload(self, variables: Mapping[str, str], *more: str) -> None:
        self._read_ahead = dict(variables)
        names = [FIRST, self.program, run_folder.__module__, *more]
        self._context.set_forkserver_preload(names)

    def submit(
        self,
        directory: Path,
        action: str = "main",
        processes: int = 1,
        variables: Mapping[str, str] | None = None,
        part: Part | None = None,
    ) -> LocalHandle:
        """Start `action` of the program on the folder; its output goes to log.txt there.

        Args:
            directory: the run's folder.
            action: a function of the program.
            processes: ranks on this machine.
            variables: of the environment; None: the GPUs of its slot.
            part: of the ranks, where other machines have the rest.
        """
        slot = self._free.pop(0) if self._free else None
        variables = self._variables(slot) if variables is None else variables
        process = self._start((str(directory), self.program, action, processes, variables, part))
        return LocalHandle(directory, process, slot, time.monotonic())

    def warm(self) -> None:
        """Have the server import the program now, ahead of the first run."""
        with self._server_may_start():
            forkserver.ensure_running()

    def _start(self, arguments: tuple[object, ...]) -> ForkServerProcess:
        start = time.monotonic()
        while True:
            process = self._context.Process(target=run_folder, args=arguments)
            try:
                with self._server_may_start():
                    process.start()
            except (EOFError, ConnectionError) as error:
                self._lost_server(time.monotonic() - start, error)
            else:
                return process

    def _lost_server(self, waited: float, error: Exception) -> None:
        """It was killed, or ends by itself; the next one is another, or does without."""
        if self._ahead and waited > AHEAD_SECONDS:
            log.warning("%s ends the process that imports it; now each run does", self._ahead)
            self._ahead = None
            self._preload({})
        elif waited > SERVER_SECONDS:
            raise OutsideError("the process that runs are forked from ends as it starts") from error
        time.sleep(0.05)  # until the kernel has told us of this one's end

    @contextmanager
    def _server_may_start(self) -> Iterator[None]:
        with set_variables(self._read_ahead), hidden_main():
            yield

    def _variables(self, slot: int | None) -> dict[str, str]:
        """The GPUs of a slot; more slots than groups of GPUs share them."""
        if not self._devices or slot is None:
            return {}
        groups = max(1, len(self._devices) // self.devices_per_trial)
        first = slot % groups * self.devices_per_trial
        chosen = self._devices[first : first + self.devices_per_trial]
        return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}

    def wait(self, handles: Sequence[LocalHandle], seconds: float) -> list[LocalHandle]:
        """The handles that have ended, after at least one has or `seconds` have passed."""
        multiprocessing.connection.wait([h.process.sentinel for h in handles], seconds)
        ended = [handle for handle in handles if handle.end() is not None]
        for handle in ended:
            handle.signal(signal.SIGKILL)  # what it left behind
            self._give_back(handle)
        return ended

    def kill(self, handles: Sequence[LocalHandle]) -> None:
        """End the whole groups: asked first, then made to; at once if interrupted meanwhile."""
        try:
            for handle in handles:
                handle.signal(signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
            for handle in handles:
                handle.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for handle in handles:
                handle.signal(signal.SIGKILL)
                handle.process.join()
                self._give_back(handle)

    def close(self) -> None:
        """Nothing: its server ends with this process, which may want it again."""

    def _give_back(self, handle: LocalHandle) -> None:
        if handle.devices is not None:
            self._free.append(handle.devices)
            handle.devices = None


def ended_with(code: int) -> End:
    """What the exit code of a run's process says."""
    reason, lost = f"its process ended with exit code {code}", code in (LOST_CODE, PUT_BACK)
    return End(reason, outside=lost, failed=code != 0, put_back=code == PUT_BACK)


def killed_by(number: int) -> str:
    """What is said of a process that a signal ended."""
    try:
        name = f" ({signal.Signals(number).name})"
    except ValueError:  # one of real time, without a name
        name = ""
    return f"its process was killed by signal {number}{name}"


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; without importing torch, which takes seconds.

    Where that is not set, all of NVIDIA's on the machine, if the installed torch can use them.
    """
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name for name in stated.split(",") if name and name != "-1"]
    found = Path(NVIDIA_GPUS)
    if not found.is_dir() or not torch_has_cuda():
        return []
    return [str(index) for index in range(len(list(found.iterdir())))]


def torch_has_cuda() -> bool:
    """Whether the installed torch was built for NVIDIA's GPUs, by its version.py alone."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    built = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return built.get("cuda") is not None
