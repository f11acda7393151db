"""Starts a sweep many times, and kills it each time.

`python kill_sweeps.py KILLS OVERRIDES...`: every start is a fork of this process, which has
composed the sweep once, so that the time goes into sweeping.
"""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from sweep_commands import make_plan, processes_of

from kd_research import sweeper


def num_starts():
    return sum(1 for _ in Path().glob("sweeps/s/trials/*/starts"))


def main():
    kills, overrides, rng = int(sys.argv[1]), sys.argv[2:], random.Random(0)
    plan = make_plan(*overrides)
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            sweeper.run_sweep(plan)
            os._exit(0)
        known, deadline = num_starts(), time.monotonic() + 20
        while num_starts() == known and time.monotonic() < deadline and rng.random() < 0.999:
            time.sleep(0.005)  # now and then it is killed while it starts
        time.sleep(rng.uniform(0, 0.3))
        workers = [int(found) for found, _ in processes_of(os.getcwd())]
        workers = [found for found in workers if found not in (pid, os.getpid())]
        choice = rng.choice(["sweeper", "worker", "both"])
        if choice != "sweeper" and workers:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.2))
        if choice == "worker":
            time.sleep(rng.uniform(0, 0.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
