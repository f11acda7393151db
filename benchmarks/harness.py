"""What the harness itself costs a trial: `python benchmarks/harness.py [TRIALS] [--slots N]`.

Runs a sweep whose trials do nothing, without processes, so that all the time between two trials is
the harness's; the start of a process is timed apart. With N slots, N trials are in flight, of which
the oldest ends. Prints milliseconds a trial in blocks, the sampler's own time apart, and the
memory. Nothing here is a test: times vary.
"""

import argparse
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import asked
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from optuna.trial import create_trial

from kd_research import hydra_plugin
from kd_research.configuration.config import ROOT
from kd_research.configuration.resolvers import register_resolvers
from kd_research.pools.local import End, LocalPool
from kd_research.records.record import RunRecord, write_record
from kd_research.sweep import proposals
from kd_research.sweep import run as sweeper
from kd_research.sweep.opening import open_study
from kd_research.sweep.plan import Plan


class Done:
    """A run that has ended already."""

    def __init__(self, directory):
        self.directory, self.started = directory, time.monotonic()

    def end(self):
        return End("", failed=False)


class NoProcesses:
    """Writes the record in place of a run, which is not counted."""

    def __init__(self, slots):
        self.slots, self.ended, self.not_ours, self.cpu = slots, [], 0.0, 0.0

    def submit(self, directory, action="main", processes=1):
        start, used = time.perf_counter(), time.process_time()
        if action == "main":
            number = int(directory.name)
            metrics, costs = {"val_accuracy": number % 97 / 97}, {"num_params": number % 89 + 1}
            config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
            write_record(RunRecord("completed", config, config["seed"], metrics, costs), directory)
        self.not_ours += time.perf_counter() - start
        self.cpu += time.process_time() - used
        return Done(directory)

    def wait(self, handles, seconds):
        cpu = time.process_time() - self.cpu
        self.ended.append((time.perf_counter(), self.not_ours, asking.seconds, memory(), cpu))
        return list(handles)[:1]

    def kill(self, handles):
        pass


class Asking:
    """Times the sampler: the suggestions of a trial."""

    seconds = 0.0

    def __call__(self, *arguments):
        start = time.perf_counter()
        value = suggest(*arguments)
        self.seconds += time.perf_counter() - start
        return value


def fill(study, space, count):
    """Put finished trials into the study, as if the sweep had run so many before."""
    distributions = {item.key: item.distribution for item in space}
    for index in range(count):
        params = {}
        for key, kind in distributions.items():
            if hasattr(kind, "choices"):
                params[key] = kind.choices[index % len(kind.choices)]
            elif isinstance(kind.low, int):
                params[key] = kind.low + index % (kind.high - kind.low + 1)
            else:
                params[key] = kind.low + (kind.high - kind.low) * (index * 0.618 % 1)
        values = [index % 97 / 97, index % 89 + 1]
        study.add_trial(create_trial(params=params, distributions=distributions, values=values))


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def process_start(runs=9):
    """Milliseconds from submit to the end of a run that does nothing: the first, the median after.

    The server has imported what trials need; the first run waits for that.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.insert(0, str(ROOT / "tests"))  # for the server, and the runs that it forks
    os.environ["PYTHONPATH"] = str(ROOT / "tests")
    pool = LocalPool(1, program="noop_trial")
    multiprocessing.set_forkserver_preload(["kd_research.trial.run", "noop_trial"])
    times = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(1 + runs):
            start = time.perf_counter()
            handle = pool.submit(Path(directory), "write_devices")
            while not pool.wait([handle], 10):
                pass
            times.append(1000 * (time.perf_counter() - start))
            assert handle.process.exitcode == 0, (Path(directory) / "log.txt").read_text()
    return times[0], sorted(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=asked.count, nargs="?", default=1000)
    parser.add_argument("--sampler", default="random")
    parser.add_argument(
        "--after", type=asked.from_zero, default=0, help="trials that were run before"
    )
    parser.add_argument("--slots", type=asked.count, default=1)
    parser.add_argument("--block", type=asked.count, default=250)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as output_dir:
        register_resolvers()
        hydra_plugin.register()
        overrides = [f"output_dir={output_dir}", f"sampler={chosen.sampler}", "tracking=disabled"]
        overrides.append(f"sweep.n_trials={chosen.after + chosen.trials}")
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", overrides=overrides, return_hydra_config=True)
            plan = Plan(GlobalHydra.instance().config_loader(), config, overrides)
        plan.directory.mkdir(parents=True)
        pool = NoProcesses(chosen.slots)
        quiet = redirect_stdout(io.StringIO())
        with quiet, open_study(plan) as study:
            fill(study.study, plan.space, chosen.after)
            sweeper.Sweep(plan, study, pool).run()
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, sampler {chosen.sampler}, "
        f"{chosen.slots} slots"
    )
    print("trials         harness ms   sampler ms   both, CPU ms   peak MiB")
    last = len(pool.ended) - 1  # the first is the rehearsal
    for start, end in pairwise([*range(1, last, chosen.block), last]):
        before, after, count = pool.ended[start], pool.ended[end], end - start
        wall, others, proposing = (1000 * (after[i] - before[i]) / count for i in range(3))
        label = f"{chosen.after + start + 1}..{chosen.after + end}"
        cpu = 1000 * (after[4] - before[4]) / count
        times = f"{wall - others - proposing:10.1f} {proposing:12.1f} {cpu:14.1f}"
        print(f"{label:14} {times} {after[3]:10.0f}", flush=True)
    first, later = process_start()
    print(
        f"a process forked from the warm server, start to end: {later[len(later) // 2]:.0f} ms "
        f"(median of n = {len(later)}, {later[0]:.0f} to {later[-1]:.0f}); "
        f"the first, with the server's imports: {first:.0f} ms"
    )


suggest, asking = proposals.suggest, Asking()
proposals.suggest = asking

if __name__ == "__main__":
    main()
