"""A worker of pytest-xdist, as a fork of the server that the tests' commands are forked from.

    pytest --tx '3*popen//python=PYTHON tests/xdist_worker.py' --dist loadfile

Each would import torch, Lightning and more itself, in eight seconds of processor time.
"""

import os
import signal
import sys
from pathlib import Path


def start(code: str) -> None:
    """The worker in this process's place, which ends as it does."""
    import warm

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group: it is for the worker
    os.environ[warm.SESSION] = str(os.getppid())
    given = os.environ.get("PYTHONPATH", "")
    paths = os.pathsep.join([str(Path(__file__).parent), given])
    command = [sys.executable, "-m", Path(__file__).stem, code]
    worker = warm.Command(command, env={**os.environ, "PYTHONPATH": paths})
    for stream in (0, 1):  # whoever reads from the worker sees its end
        os.close(stream)
    os._exit(worker.wait() & 255)


def work(code: str) -> None:
    """What execnet has its Python do."""
    _, _, given = os.environ.pop("PYTHONPATH").partition(os.pathsep)
    if given:
        os.environ["PYTHONPATH"] = given
    sys.path.pop(1)
    exec(code, {"__name__": "__main__"})


if __name__ == "__main__":
    if sys.argv[1:3] == ["-u", "-c"]:  # as execnet starts its Python
        start(sys.argv[3])
    else:
        work(sys.argv[1])
