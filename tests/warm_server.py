"""What `warm.Command` has its commands forked from: `python warm_server.py SOCKET PACKAGE`."""

import array
import atexit
import importlib
import multiprocessing.util
import os
import pickle
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from warm_imports import WORKER, prepare

BASE = sys.path[1:]  # of an interpreter, without what a command's own environment adds


class Replaced(BaseException):
    """What a command would be instead, after `os.execv`."""


def main(fd: int, package: str) -> None:
    """Serve whoever listens there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group: it is for the forks
    if package:  # not where a wheel is tried out as it is
        importlib.import_module("quick_configs").install()
        os.fsync = lambda fd: None  # as in shared_fixtures.py
    sys.path[:] = [package, *BASE] if package else BASE
    serve(socket.socket(fileno=fd), lambda module: prepare(module == WORKER, package))


def serve(listener: socket.socket, before: Callable[[str], None] = lambda module: None) -> None:
    """Fork for every request, tell how each fork ended, until nobody is left who can ask.

    Args:
        listener: where those who ask connect.
        before: called with the module that a fork will run.
    """
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    clients = {listener.accept()[0]}  # of whoever started this
    selector.register(*clients, selectors.EVENT_READ)
    running: dict[int, tuple[int, int]] = {}  # pidfd -> pid, where its end is told
    while clients:
        for key, _ in selector.select():
            asked = key.fileobj
            if asked is listener:
                clients.add(other := listener.accept()[0])
                selector.register(other, selectors.EVENT_READ)
                continue
            if isinstance(asked, int):
                selector.unregister(asked)
                tell_end(asked, *running.pop(asked))
                continue
            message, fds = receive(asked)
            if not message:
                selector.unregister(asked)
                clients.remove(asked)
                asked.close()
                continue
            request = pickle.loads(message)
            before(request["argv"][0])
            pid = os.fork()
            if pid == 0:
                for pidfd, (_, told) in running.items():
                    os.close(pidfd)
                    os.close(told)
                os.close(fds.pop())
                selector.close()
                for each in (listener, *clients):
                    each.close()
                live(request, fds)
            told = fds.pop()
            for fd in fds:
                os.close(fd)
            os.write(told, b"%d\n" % pid)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, told
            selector.register(pidfd, selectors.EVENT_READ)


def tell_end(pidfd: int, pid: int, told: int) -> None:
    """To whoever asked for a fork that has ended."""
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(told, b"%d\n" % status)
    os.close(told)
    os.close(pidfd)


def receive(asked: socket.socket) -> tuple[bytes, list[int]]:
    """A message and the files that came with it."""
    fds = array.array("i")
    message, ancillary, _, _ = asked.recvmsg(1 << 20, socket.CMSG_LEN(16 * fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds)


def live(request: dict, streams: list[int]) -> None:
    """In the fork: be the command; never returns."""
    code = 1
    try:
        become(request, streams)
        if {"-m", "--multirun"} & set(request["argv"][1:]):
            fork_ahead()
        code = run(request["argv"])
    except BaseException:
        traceback.print_exc()
    end(code)


def become(request: dict, streams: list[int]) -> None:
    """Take the folder, environment and streams of the command."""
    if request["new_session"]:
        os.setsid()
    if request["group"] not in (None, -1):
        os.setpgid(0, request["group"])
    high = [os.dup(fd) for fd in streams]  # one of them may be 0, 1 or 2
    for to, fd in enumerate(high):
        os.dup2(fd, to)
        os.close(fd)
    for fd in streams:
        if fd > 2:
            os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["umask"] >= 0:
        os.umask(request["umask"])
    more = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:] = [request["cwd"], *more, *BASE]
    sys.path_importer_cache.clear()
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["argv"][0] != WORKER:  # which is not heard under nohup, but by what it starts
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    import numpy

    numpy.random.seed()
    import warnings

    if given := os.environ.get("PYTHONWARNINGS"):
        sys.warnoptions[:] = given.split(",")
        warnings._processoptions(sys.warnoptions)
    os.execv = replaced


def replaced(path: str, argv: list[str]) -> None:
    """In place of `os.execv`: leave what runs, and be the other module."""
    assert argv[:2] == [sys.executable, "-m"], argv
    raise Replaced(argv[2:])


def run(argv: list[str]) -> int:
    """The module as `python -m` runs it; its exit code."""
    sys.argv[:] = argv
    for name in (argv[0], f"{argv[0]}.__main__"):  # runpy warns of what was imported before
        if not hasattr(sys.modules.get(name), "__path__"):
            sys.modules.pop(name, None)
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except Replaced as other:
        return run(other.args[0])
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(code: int) -> None:
    """As an interpreter ends, but for what it takes down piece by piece."""
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    os._exit(code & 255)


def fork_ahead() -> None:
    """Fork the process that multiprocessing's forkserver will be, should this one start one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        serve_forks(theirs)
    theirs.close()
    spawn = multiprocessing.util.spawnv_passfds

    def instead(path: bytes, args: list, passed: list[int]) -> int:
        code = os.fsdecode(args[-1])
        if "multiprocessing.forkserver import main" not in code:
            return spawn(path, args, passed)
        multiprocessing.util.spawnv_passfds = spawn
        message = pickle.dumps((code, list(passed), os.getcwd(), dict(os.environ)))
        fds = array.array("i", passed)
        ours.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        ours.close()
        return pid

    multiprocessing.util.spawnv_passfds = instead


def serve_forks(asked: socket.socket) -> None:
    """Wait to be a forkserver; never returns."""
    code = 0
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group: it is for the command
        message, fds = receive(asked)
        asked.close()
        if message:
            text, numbers, cwd, environment = pickle.loads(message)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(environment)
            high = [fcntl_dup(fd, max(numbers) + 1) for fd in fds]
            for fd, number in zip(high, numbers, strict=True):
                os.dup2(fd, number)
                os.close(fd)
            for fd in set(fds) - set(numbers):
                os.close(fd)
            sys.argv[:] = ["-c"]
            exec(text, {"__name__": "__main__"})
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    end(code)


def fcntl_dup(fd: int, lowest: int) -> int:
    """A copy of it that is not below a number."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD, lowest)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
