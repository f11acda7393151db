"""What happens in the process of a run, between the fork and the run itself.

The process leads a group of its own, writes to its own log, dies with the sweeper, and holds its
folder's lock, so that a folder is never run twice at once. With several processes it does not run
itself but starts them, with the variables of their ranks set, so that Lightning starts none.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from omegaconf import OmegaConf

from kd_research.records.outside import PUT_BACK, trouble
from kd_research.records.printing import print_safely
from kd_research.records.record import (
    CONFIG_NAME,
    LOG_NAME,
    RECORD_NAME,
    RunRecord,
    read_text,
    write_record,
)

PR_SET_PDEATHSIG = 1
SETTLE_SECONDS = 10.0  # for the other ranks to end by themselves when one has failed


@dataclass(frozen=True)
class Part:
    """The ranks of a run that one of several machines has.

    Attributes:
        first: the lowest of them.
        world: ranks of the run, on all machines.
        host: where rank 0 is.
        port: on which the others find it.
    """

    first: int
    world: int
    host: str
    port: int


@contextmanager
def hidden_main() -> Iterator[None]:
    """Hides `__main__` from multiprocessing, which would import it again in every new process.

    That may be Hydra and Optuna, or Lightning: half a second and more, which no child needs.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def run_folder(
    directory: str,
    program: str,
    action: str,
    processes: int,
    variables: Mapping[str, str],
    part: Part | None = None,
) -> None:
    """Run `program.action([directory])` in this process, and exit with what it returns.

    Args:
        directory: the run's folder.
        program: a module, imported before by the server that this process was forked from.
        action: its function.
        processes: how many ranks; with one, none.
        variables: of the environment.
        part: which ranks these are, where other machines have the rest; None: all.
    """
    from kd_research.pools import server_start  # not for who imports this module

    server_start.end()
    os.setsid()
    _die_with_sweeper()
    try:
        folder = os.open(directory, os.O_RDONLY)
        if part is None or part.first == 0:  # the others run the same folder
            fcntl.flock(folder, fcntl.LOCK_EX)  # waits for a dying run of a killed sweeper
        log = os.open(Path(directory) / LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:  # there is no log to say it in; the sweeper looks at the disk itself
        if isinstance(error, FileNotFoundError) or trouble(error, Path(directory)):
            sys.exit(PUT_BACK)
        raise
    os.dup2(log, 1)
    os.dup2(log, 2)
    print_safely()  # to the log, which may be on a full disk
    os.environ.update(variables)
    sys.argv = [program, directory]
    if processes == 1 and part is None:
        sys.exit(getattr(importlib.import_module(program), action)([directory]))
    part = part or Part(0, processes, "127.0.0.1", free_port())
    sys.exit(_run_ranks(Path(directory), program, action, processes, part))


def _die_with_sweeper() -> None:
    """End the whole group when the sweeper has gone, however it went.

    Our parent is the server, which lives as long as any process that it forked: its death would
    come too late.
    """
    sweeper = multiprocessing.parent_process()
    assert sweeper is not None

    def watch() -> None:
        sweeper.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="sweeper", daemon=True).start()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _run_ranks(directory: Path, program: str, action: str, processes: int, part: Part) -> int:
    """Start the ranks, end them all when one fails, and see that the record names the first."""
    ranks = {}
    for rank in range(part.first, part.first + processes):
        pid = os.fork()
        if pid == 0:
            _run_rank(directory, program, action, rank, part, alone=part.world > processes)
        ranks[pid] = rank
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the ranks get it too, and end in order
    failed: tuple[int, int] | None = None  # rank, exit code
    deadline = None
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG if deadline else 0)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            rank = ranks.pop(pid)
            if code != 0 and failed is None:
                failed, deadline = (rank, code), time.monotonic() + SETTLE_SECONDS
        elif time.monotonic() > (deadline or 0):
            for other in ranks:
                os.kill(other, signal.SIGKILL)
            deadline = None
        else:
            time.sleep(0.05)
    if failed is None:
        return 0
    return _conclude(directory, failed) if part.world == processes else _end_as(failed)


def _run_rank(
    directory: Path, program: str, action: str, rank: int, part: Part, alone: bool
) -> None:
    """In the process of one rank; never returns.

    Where other machines have some of the ranks, each is `alone`: a node to Lightning, with one
    device, its own GPU where there are any. So machines may have different shares.
    """
    _die_with_parent()
    if alone:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[(rank - part.first) % len(gpus)]
        os.environ["LOCAL_WORLD_SIZE"] = "1"
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0" if alone else str(rank),
        "NODE_RANK": str(rank) if alone else "0",
        "WORLD_SIZE": str(part.world),
        "MASTER_ADDR": part.host,
        "MASTER_PORT": str(part.port),
    }
    code = 1
    try:
        code = getattr(importlib.import_module(program), action)([str(directory)])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        traceback.print_exc()
        _reason_path(directory, rank).write_text(
            f"{type(error).__name__}: {error}", "utf-8", "backslashreplace"
        )
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reason_path(directory: Path, rank: int) -> Path:
    return directory / f".rank-{rank}"


def _conclude(directory: Path, failed: tuple[int, int]) -> int:
    """The record says what went wrong first: the other ranks only saw a peer that was gone."""
    rank, code = failed
    path = _reason_path(directory, rank)
    reason = read_text(path) if path.exists() else None
    path.unlink(missing_ok=True)
    if code < 0:
        (directory / RECORD_NAME).unlink(missing_ok=True)
    elif rank > 0 and reason:
        _blame(directory, rank, reason)
    return _end_as(failed)


def _end_as(failed: tuple[int, int]) -> int:
    """The exit code for a rank that failed; one killed from outside as if this process had been."""
    rank, code = failed
    if code < 0:
        print(f"rank {rank} was killed by signal {-code}", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _blame(directory: Path, rank: int, reason: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(directory / CONFIG_NAME))
    assert isinstance(config, dict)
    text = f"rank {rank}: {reason}"
    write_record(RunRecord("failed", config, config["seed"], error=text), directory)  # type: ignore[arg-type]


def conclude_parts(directory: Path, outside: bool) -> None:
    """Do for a failed run, of whose ranks every machine had some, what one alone would have done.

    Args:
        directory: the run's folder.
        outside: whether what failed first was killed: there is no record then.
    """
    record = directory / RECORD_NAME
    reasons = list(directory.glob(".rank-*"))
    if outside:
        record.unlink(missing_ok=True)
    elif reasons:
        first = min(reasons, key=_changed)
        if not record.exists() or _changed(first) < _changed(record):
            _blame(directory, int(first.name.rpartition("-")[2]), read_text(first))
    for path in reasons:
        path.unlink(missing_ok=True)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def free_port(host: str = "127.0.0.1") -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port
