"""What `pool=ray` costs, on a simulated cluster of one machine; figures: docs/how-to/ray.md.

`noop`: milliseconds a trial that does nothing, two at a time, by pool=local and pool=ray in turns.
`slots`: the sweeper's own CPU time a trial, in blocks, with few and with many slots.
`digits`: seconds of a real sweep (8 trials of 10 epochs, two at a time), by both in turns; the
cluster is up, its actors are not. Nothing here is a test: times vary, so the load is printed.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import asked  # noqa: E402
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from sweep_commands import make_plan  # noqa: E402

from kd_research.pools.local import LocalPool  # noqa: E402
from kd_research.pools.ray_cluster import connect  # noqa: E402
from kd_research.pools.ray_pool import RayPool  # noqa: E402
from kd_research.sweep import run as sweeper  # noqa: E402
from kd_research.sweep.study import SharedStudy  # noqa: E402

LOOPBACK = {"node_ip_address": "127.0.0.2", "include_log_monitor": False}


@contextmanager
def cluster(nodes, slots):
    """Its address; `slots` of it on each of its nodes."""
    with tempfile.TemporaryDirectory(prefix="kd-", ignore_cleanup_errors=True) as home:
        os.environ["RAY_TMPDIR"] = home
        found = Cluster(True, head_node_args={**LOOPBACK, "num_cpus": 0})
        for _ in range(nodes):
            found.add_node(**LOOPBACK, num_cpus=slots)
        try:
            yield found.address
        finally:
            ray.shutdown()
            found.shutdown()


def noop(chosen):
    """Submit and wait, nothing else: no study, no records."""
    with cluster(2, 1) as address, tempfile.TemporaryDirectory() as output:
        connect(address, 1)
        pools = {
            "local": LocalPool(2, program="noop_trial"),
            "ray": RayPool(2, address=address, gpus=0, output_dir=output, program="noop_trial"),
        }
        times = {name: [] for name in pools}
        for turn in range(1 + chosen.repeats):  # the first one waits for imports and actors
            for name, pool in pools.items():
                seconds = through(pool, Path(output), chosen.trials)
                if turn:
                    times[name].append(1000 * seconds / chosen.trials)
        for name, found in times.items():
            say(f"a trial that does nothing, two at a time, pool={name}", found, "ms")
        pools["ray"].close()


def through(pool, output, count):
    """Seconds for so many runs of an empty folder each, two at a time."""
    folders = [output / str(index % 2) for index in range(count)]
    for folder in folders[:2]:
        folder.mkdir(exist_ok=True)
    start, flying = time.perf_counter(), []
    while folders or flying:
        while folders and len(flying) < 2:
            taken = {handle.directory for handle in flying}
            free = next(folder for folder in (output / "0", output / "1") if folder not in taken)
            folders.pop()
            flying.append(pool.submit(free, "write_devices"))
        ended = pool.wait(flying, 10)
        assert not any(handle.end().failed for handle in ended), ended
        flying = [handle for handle in flying if handle not in ended]
    return time.perf_counter() - start


def slots(chosen):
    """The sweep itself; the CPU time of its process alone, from its first told trial on."""
    with cluster(2, chosen.slots // 2) as address, tempfile.TemporaryDirectory() as output:
        connect(address, 1)
        overrides = [f"output_dir={output}", "sampler=random", "tracking=disabled"]
        overrides += ["pool=ray", "pool.gpus=0", "pool.program=noop_trial", "sweep.baseline=false"]
        overrides += [f"pool.address={address}", f"sweep.n_trials={chosen.trials}"]
        plan, marks, tell = make_plan(*overrides), [], SharedStudy.tell

        def told(study, trial, values):
            marks.append((time.process_time(), time.perf_counter()))
            return tell(study, trial, values)

        SharedStudy.tell = told
        with redirect_stdout(io.StringIO()):
            sweeper.run_sweep(plan, quiet=True)
        load()
        for first in range(0, len(marks) - 1, chosen.block):
            last = min(first + chosen.block, len(marks) - 1)
            cpu, wall = (1000 * (marks[last][i] - marks[first][i]) / (last - first) for i in (0, 1))
            print(
                f"{chosen.slots} slots, trials {first + 1} to {last}: the sweeper's CPU "
                f"{cpu:.1f} ms a trial, wall {wall:.1f} ms"
            )


def digits(chosen):
    """Sweeps as a user starts them, whole: Python's start, the study and the report are in it."""
    with cluster(2, 1) as address, tempfile.TemporaryDirectory() as output:
        times = {"local": [], "ray": []}
        for turn in range(1 + chosen.repeats):  # the first one trains the teacher
            for name in times:
                command = [sys.executable, "-m", "kd_research.run", "-m", f"pool={name}"]
                command += [f"pool.address={address}", "pool.gpus=0"] if name == "ray" else []
                command += [f"output_dir={output}", f"sweep.name={name}-{turn}", "sweep.workers=2"]
                command += ["sweep.n_trials=8", "trainer.max_epochs=10", "sampler=random"]
                start = time.perf_counter()
                subprocess.run([*command, "tracking=disabled"], check=True, capture_output=True)
                if turn:
                    times[name].append(time.perf_counter() - start)
        for name, found in times.items():
            say(f"8 trials of 10 epochs, pool={name}", found, "s")
        ratios = [b / a for a, b in zip(times["local"], times["ray"], strict=True)]
        say("ray / local, pair by pair", ratios, "")


def say(what, found, unit):
    load()
    middle, least, most = statistics.median(found), min(found), max(found)
    print(f"{what}: {middle:.3g} {unit} (median of n = {len(found)}, {least:.3g} to {most:.3g})")


def load():
    print(f"[{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}]", end=" ", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["noop", "slots", "digits"])
    parser.add_argument("--trials", type=asked.count, default=200)
    parser.add_argument("--repeats", type=asked.count, default=5)
    parser.add_argument("--slots", type=asked.count, default=64)
    parser.add_argument("--block", type=asked.count, default=500)
    chosen = parser.parse_args()
    {"noop": noop, "slots": slots, "digits": digits}[chosen.what](chosen)


if __name__ == "__main__":
    main()
