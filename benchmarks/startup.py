"""What it costs to get going: `python benchmarks/startup.py [--repeats N] [OVERRIDE ...]`.

Processor time, of all processes together, from `python -m kd_research.run -m` to the first training
step of its first trial, whose teacher and its outputs are there; beside it that of `import torch`
alone, in turn, on the same machine. Nothing here is a test: times vary.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from multiprocessing import parent_process
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import mean, stdev

if __name__ != "__main__":  # the pool's program, which the server imports
    from kd_research.trial import run as trial
    from kd_research.trial.run import prepare  # noqa: F401

TICKS = os.sysconf("SC_CLK_TCK")
OUT = "KD_STARTUP_OUT"


def processor_time(pid):
    """Seconds of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def main(arguments):
    """A trial, as the pool's program, that ends at its first training step."""

    from kd_research.training.distill import Distiller

    def first_step(*_, **__):
        there = [os.getpid(), os.getppid(), parent_process().pid]  # this, the server, the sweep
        Path(os.environ[OUT]).write_text(json.dumps(sum(map(processor_time, there))))
        os.killpg(os.getpgid(parent_process().pid), 9)
        os._exit(0)

    Distiller.training_step = first_step
    return trial.main(arguments)


def command(*settings):
    return [sys.executable, "-m", "kd_research.run", "-m", "sweep.workers=1", *settings]


def used(*arguments, **options):
    """Processor seconds of a command and all that it waits for."""
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def told(name, values):
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    print(f"{name:<42} {mean(values):.2f}{spread} s of processor time, n = {len(values)}")


if __name__ == "__main__":
    import asked

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=asked.count, default=5)
    options, overrides = parser.parse_known_args()
    starts, imports = [], []
    with tempfile.TemporaryDirectory(prefix="kd-") as home:
        out = Path(home, "seconds.json")
        env = {**os.environ, OUT: str(out), "OMP_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])
        settings = [f"output_dir={home}", "tracking=disabled", "sweep.baseline=false", *overrides]
        first = command(*settings, "sweep.name=first", "sweep.n_trials=1", "trainer.max_epochs=1")
        subprocess.run(first, env=env, check=True, stdout=subprocess.DEVNULL)
        for number in range(options.repeats):
            again = [*settings, f"sweep.name=again{number}", "pool.program=startup"]
            subprocess.run(command(*again), env=env, start_new_session=True, capture_output=True)
            starts.append(json.loads(out.read_text()))
            out.unlink()
            imports.append(used(sys.executable, "-c", "import torch", env=env))
    told("to the first training step", starts)
    told("import torch", imports)
