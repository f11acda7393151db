"""Starts a sweep many times, and kills it each time, at another of its changes to the disk.

`python -m kill_sweeps KILLS STRIDE OVERRIDES...`: the first start is killed just before its first
change takes effect, the next one STRIDE changes later, and so on: through the opening of a study,
the proposal of a trial, its start, and what is told of its end. Every third start loses a process
that it started as well, halfway. Each is a fork of this process, which has imported what a sweep
needs and composed this one, so that the time goes into sweeping.
"""

import itertools
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import warm_server
from hydra.utils import instantiate
from sqlalchemy import Engine, event
from sweep_commands import make_plan, processes_of

from kd_research.sweep import run as sweeper
from kd_research.sweep import storage

CHANGES = ("os.rename", "os.remove")  # and commits to the database


def die_at(last, halfway):
    """Have this process killed at its `last` change, after one that it started if `halfway`."""
    changes, spared = itertools.count(1), {str(os.getpid()), str(os.getppid())}

    def happens(*_):
        nonlocal halfway
        change = next(changes)
        if halfway and change >= last / 2:
            for found in [pid for pid, _ in processes_of(os.getcwd()) if pid not in spared][-1:]:
                halfway = False
                with suppress(ProcessLookupError):
                    os.kill(int(found), signal.SIGKILL)
        if change == last:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "commit", happens)
    sys.addaudithook(lambda name, _: happens() if name in CHANGES else None)


def main():
    kills, stride, overrides = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    plan = make_plan(*overrides)
    instantiate(plan.config.sampler)(seed=0)
    with tempfile.TemporaryDirectory() as elsewhere:
        storage.open_storage(None, Path(elsewhere))
    for kill in range(kills):
        pid = os.fork()
        if pid == 0:
            warm_server.fork_ahead()
            die_at(1 + kill * stride, halfway=kill % 3 == 2)
            sweeper.run_sweep(plan)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the sweep ended by itself"


if __name__ == "__main__":
    main()
