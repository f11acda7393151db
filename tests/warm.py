"""Commands of the package as forks of one process that has imported everything.

`python -m kd_research.x` costs seconds of imports each time; a suite starts a hundred. `Command` is
a `subprocess.Popen` whose process is forked from a server, with the folder, environment, streams
and signals of its own, runs the module as `__main__`, and ends with its exit code. The server of
forks that a sweep starts for its trials is forked ahead likewise, and the suite's workers are
forks too (`xdist_worker.py`). Where the start itself matters (another interpreter, variables that
an interpreter or a library reads at its start), or where the machine cannot, the process is a real
one: `subprocess.Popen` does the same.
"""

from __future__ import annotations

import array
import atexit
import os
import pickle
import select
import socket
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

SERVER = Path(__file__).with_name("warm_server.py")
ROOT = SERVER.parents[1]
AT_THE_START = ("PYTHON", "LD_", "LC_", "LANG", "OMP_", "MKL_", "HF_", "TORCH", "KMP_", "MALLOC_")
SET_BY_LIBRARIES = (  # for themselves, when they are imported
    "KMP_DUPLICATE_LIB_OK",  # scikit-learn
    "KMP_INIT_AT_FORK",
    "TORCHINDUCTOR_CACHE_DIR",  # torch
)
FORKED = (
    *("kd_research.", "kill_sweeps", "gpu", "torchrun_by_forks", "serve_storage"),
    *("mkdocs", "xdist_worker"),  # the former asks the package about itself
)  # modules
SESSION = "KD_RESEARCH_TESTS"  # a variable: of which session of tests a worker is
LOST = 255  # the exit code of what was running when the server was killed


class Server:
    """The process that forks the commands of an interpreter; it ends with the last that asks it."""

    started: ClassVar[dict[str, Server]] = {}

    def __init__(self, python: str) -> None:
        self.owner, self.environment = os.getpid(), start_variables(os.environ)
        package = str(ROOT) if python == sys.executable else ""  # another has its own
        self.process = None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            name = address(python)
            while True:
                try:
                    listener.bind(name)
                except OSError:  # another worker's server is there, or this one's by now
                    pass
                else:
                    name = listener.getsockname()
                    listener.listen()
                    self._start(python, package, listener.fileno())
                with suppress(ConnectionRefusedError):  # of one that is about to listen, or ended
                    self.socket.connect(name)
                    break
        atexit.register(self.stop)

    def _start(self, python: str, package: str, fd: int) -> None:
        self.process = subprocess.Popen(
            [python, str(SERVER), str(fd), package],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )

    @classmethod
    def here(cls, python: str) -> Server:
        """The one that this process has for an interpreter."""
        found = cls.started.get(python)
        if found is None or found.owner != os.getpid():
            found = cls.started[python] = Server(python)
        return found

    def stop(self) -> None:
        """Nothing more is asked of it."""
        if self.owner == os.getpid():
            self.socket.close()
            if self.process and "PYTEST_XDIST_WORKER" not in os.environ:
                self.process.wait()  # else it ends with the last of the workers


def address(python: str) -> str:
    """Where an interpreter's server listens: one for all workers of a session; else any place."""
    session = os.environ.get(SESSION) or os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return f"\0{sha256(f'{session} {python}'.encode()).hexdigest()}" if session else ""


def start_variables(environment: dict[str, str] | os._Environ[str]) -> dict[str, str]:
    """Those that have been read when a fork could change them; PYTHONPATH and warnings are not."""
    later = ("PYTHONPATH", "PYTHONWARNINGS", *SET_BY_LIBRARIES)
    names = [name for name in environment if name.startswith(AT_THE_START) and name not in later]
    return {name: environment[name] for name in names}


class Command(subprocess.Popen):
    """As `subprocess.Popen` of `[python, "-m", module, ...]`, seconds sooner."""

    def _execute_child(self, *given):
        # fmt: off
        (args, executable, preexec_fn, close_fds, pass_fds, cwd, env, _, _, shell,
         p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
         _, gid, gids, uid, umask, start_new_session, process_group) = given
        # fmt: on
        environment = dict(os.environ if env is None else env)
        self._ended = None
        unusual = (executable, preexec_fn, pass_fds, shell, gid, gids, uid)
        if (
            args[1] != "-m"
            or not args[2].startswith(FORKED)
            or any(unusual)
            or not hasattr(os, "pidfd_open")
            or start_variables(environment) != Server.here(args[0]).environment
        ):
            super()._execute_child(*given)
            return
        ours, theirs = os.pipe()
        request = {
            "argv": [os.fspath(item) for item in args[2:]],
            "cwd": os.fspath(cwd or Path.cwd()),
            "environment": environment,
            "umask": umask,
            "new_session": start_new_session,
            "group": process_group,
        }
        streams = [0 if p2cread < 0 else p2cread, 1 if c2pwrite < 0 else c2pwrite]
        streams += [2 if errwrite < 0 else errwrite, theirs]
        fds = array.array("i", streams)
        try:
            Server.here(args[0]).socket.sendmsg(
                [pickle.dumps(request)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            )
        finally:
            os.close(theirs)
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        self._ended = ours
        self.pid = int(self._line() or 0)
        if not self.pid:
            raise OSError("the server of the tests' commands is gone")
        self._child_created = True

    def _line(self) -> bytes:
        found = b""
        while not found.endswith(b"\n"):
            some = os.read(self._ended, 1)
            if not some:
                break
            found += some
        return found

    def _try_wait(self, wait_flags):
        if self._ended is None:
            return super()._try_wait(wait_flags)
        if wait_flags & os.WNOHANG and not select.select([self._ended], [], [], 0)[0]:
            return 0, 0
        line = self._line()
        os.close(self._ended)
        self._ended = -1
        return self.pid, int(line) if line else LOST << 8

    def _internal_poll(self, *given, **more):
        if self._ended is None:
            return super()._internal_poll(*given, **more)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            with suppress(ChildProcessError):
                try:
                    if self.returncode is None:
                        pid, status = self._try_wait(os.WNOHANG)
                        if pid:
                            self._handle_exitstatus(status)
                finally:
                    self._waitpid_lock.release()
        return self.returncode


def run(args, timeout=600, check=False, **how) -> subprocess.CompletedProcess:
    """As `subprocess.run`, by a `Command`."""
    if how.pop("capture_output", False):
        how |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Command(args, **how) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done
