"""Starts a sweep many times, and kills it each time.

`python kill_sweeps.py KILLS SEED OVERRIDES...`: every start is a fork of this process, which has
imported what a sweep needs and composed this one, so that the time goes into sweeping.
"""

import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from hydra.utils import instantiate
from sweep_commands import make_plan, processes_of

from kd_research.sweep import run as sweeper
from kd_research.sweep import storage

HANGS_SECONDS = 600.0


def num_starts():
    """Of trials, first ones and later ones."""
    return sum(len(path.read_text().split()) for path in Path().glob("sweeps/s/trials/*/starts"))


def wait_for_starts(pid, count):
    """Until the sweep in process `pid` has started so many more."""
    wanted, deadline = num_starts() + count, time.monotonic() + HANGS_SECONDS
    while num_starts() < wanted:
        assert time.monotonic() < deadline, "the sweep hangs"
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the sweep ended by itself"
        time.sleep(0.01)


def main():
    kills, rng, overrides = int(sys.argv[1]), random.Random(int(sys.argv[2])), sys.argv[3:]
    plan = make_plan(*overrides)
    instantiate(plan.config.sampler)(seed=0)
    with tempfile.TemporaryDirectory() as elsewhere:
        storage.open_storage(None, Path(elsewhere))
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            sweeper.run_sweep(plan)
            os._exit(0)
        wait_for_starts(pid, rng.randrange(4))  # now and then it is killed while it starts
        time.sleep(rng.uniform(0, 0.1))
        workers = [int(found) for found, _ in processes_of(os.getcwd())]
        workers = [found for found in workers if found not in (pid, os.getpid())]
        choice = rng.choice(["sweeper", "worker", "both"])
        if choice != "sweeper" and workers:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
        if choice == "worker":
            wait_for_starts(pid, 1)  # it goes on
        time.sleep(rng.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the sweep ended by itself"


if __name__ == "__main__":
    main()
