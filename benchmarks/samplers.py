"""Which sampler finds the best front of a recorded table: `python benchmarks/samplers.py`.

The table beside this file holds real distillations on the digits, on a grid over the dimensions of
the default sweep, a few seeds each: `python benchmarks/samplers.py --record` makes it again. Every
sampler of conf/sampler then searches the table, interpolated, in place of training: it is told the
value of one recorded seed (with --told-mean of all), two trials are in flight at any time, and what
its front is worth is measured by the means over the seeds, in the hypervolume of the default sweep.

`--first` says what is tried before the sampler is asked: `nothing`, or the published `defaults` as
in a sweep. The gain of the second is taken repeat by repeat.
"""

import argparse
import csv
import functools
import itertools
import math
import os
import platform
import statistics
import sys
import tempfile
import warnings
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import asked
import numpy as np
import optuna
import recorded
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.interpolate import RegularGridInterpolator
from scipy.special import stdtrit

from kd_research.configuration.config import ROOT
from kd_research.pools.local import cores
from kd_research.report.pareto import hypervolume, pareto_front
from kd_research.sweep.space import suggest

TABLE = Path(__file__).with_suffix(".csv")
GRID = {
    "loss.temperature": (1, 3, 8),
    "loss.lambda": (0, 0.3, 0.7, 1),
    "student.model.width": (4, 8, 16, 32, 64),
    "student.model.depth": (1, 2, 3),
}
# The default sweep's space, as far as the grid goes.
SPACE = ("loss.temperature=tag(log, interval(1, 8))", "student.model.depth=range(1, 4)")
LOG = ("loss.temperature", "student.model.width")
SEEDS = 3
IN_FLIGHT = 2
SAMPLERS = ("random", "qmc", "tpe", "gp", "nsga2", "nsga3")
FIRST = ("nothing", "defaults")


@functools.cache
def plan_of(*overrides):
    return recorded.plan_of(*overrides, *SPACE)


def fit_row(point, output_dir):
    """The selected validation accuracy of one point, for every seed."""
    import torch
    from lightning.pytorch import seed_everything

    from kd_research.training.fit import fit
    from kd_research.trial.assembly import Parts
    from kd_research.trial.run import quiet

    quiet()
    torch.set_num_threads(1)
    values = []
    for seed in range(SEEDS):
        plan = plan_of(f"output_dir={output_dir}", f"seed={seed}")
        config = plan.composition.compose(point)
        plain = OmegaConf.to_container(config, resolve=True)
        parts = Parts(plain)
        seed_everything(seed, verbose=False)
        with tempfile.TemporaryDirectory() as directory:
            found = fit(parts.module, parts.data, plain["trainer"], Path(directory), lambda _: None)
        values.append(found.value)
    size = sum(parameter.numel() for parameter in parts.student.parameters())
    return [*point.values(), size, *values]


def record(output_dir):
    points = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    # At lambda = 0 the temperature changes nothing, not a bit: one of them is run.
    points = [p for p in points if p["loss.lambda"] or p["loss.temperature"] == 1]
    first, *rest = points
    rows = [fit_row(first, output_dir)]  # trains the teachers
    with ProcessPoolExecutor(cores()) as executor:
        for row in executor.map(fit_row, rest, itertools.repeat(output_dir)):
            rows.append(row)
            print(f"{len(rows)} of {len(points)}: {row}", flush=True)
    with TABLE.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*GRID, "num_params", *(f"val_accuracy {i}" for i in range(SEEDS))])
        writer.writerows([f"{value:.6g}" for value in row] for row in rows)


class Table:
    """The recorded grid, linear between its points (in the logarithm of widths, temperatures)."""

    def __init__(self):
        with TABLE.open() as stream:
            rows = list(csv.DictReader(stream))
        self.seeds = [name for name in rows[0] if name.startswith("val_accuracy")]
        axes = [np.array([self._scaled(key, v) for v in values]) for key, values in GRID.items()]
        known = {tuple(float(row[key]) for key in GRID): row for row in rows}
        values = np.empty([len(axis) for axis in axes] + [len(self.seeds)])
        for place in np.ndindex(values.shape[:-1]):
            point = [GRID[key][i] for key, i in zip(GRID, place, strict=True)]
            if not point[1]:  # lambda = 0
                point[0] = 1
            row = known[tuple(map(float, point))]
            values[place] = [float(row[name]) for name in self.seeds]
        self.values = RegularGridInterpolator(axes, values)
        self.spread = math.sqrt(values.var(axis=-1, ddof=1).mean())
        self.points = [
            [statistics.fmean(float(row[name]) for name in self.seeds), float(row["num_params"])]
            for row in rows
        ]

    @staticmethod
    def _scaled(key, value):
        return math.log(value) if key in LOG else float(value)

    def __call__(self, params):
        """One accuracy a seed, and the exact number of parameters of the digits' MLP."""
        place = [self._scaled(key, params[key]) for key in GRID]
        width, depth = params["student.model.width"], params["student.model.depth"]
        size = 64 * width + width + (depth - 1) * (width * width + width) + 10 * width + 10
        return self.values(place)[0], size


def search(name, repeat, budget, told_mean=False, first="nothing"):
    """(accuracy told, mean accuracy, size, whether it is the student of an earlier trial)."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table, plan = Table(), plan_of(f"sampler={name}")
    limits = {item.key: item.distribution for item in plan.space}
    draw = np.random.default_rng(repeat)
    study = optuna.create_study(
        directions=list(plan.objectives.values()),
        sampler=instantiate(plan.config.sampler)(seed=repeat),
    )
    if first == "defaults":
        study.enqueue_trial({key: plan.start_from[0][key] for key in GRID})
    flying, found, alone = deque(), [], set()
    while len(found) < budget:
        while len(flying) < IN_FLIGHT:
            trial = study.ask()
            flying.append((trial, {key: suggest(trial, key, limits[key]) for key in GRID}))
        trial, params = flying.popleft()
        accuracies, size = table(params)
        told = float(accuracies.mean() if told_mean else draw.choice(accuracies))
        study.tell(trial, [told, size])
        twin = params["loss.lambda"] == 0 and size in alone
        if params["loss.lambda"] == 0:
            alone.add(size)
        found.append((told, float(accuracies.mean()), size, twin))
    return found


def worth(found, directions, reference):
    """The hypervolume, by the means over seeds, of the front that was chosen by what was told."""
    chosen = pareto_front([[told, size] for told, _, size, _ in found], directions)
    return hypervolume([[found[i][1], found[i][2]] for i in chosen], directions, reference)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="train the table again")
    parser.add_argument("--output-dir", default=str(ROOT / "outputs"), help="for its teachers")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--budgets", nargs="+", type=asked.count, default=[24, 60])
    parser.add_argument("--first", nargs="+", choices=FIRST, default=["nothing"])
    parser.add_argument("--told-mean", action="store_true", help="over the seeds, not one of them")
    parser.add_argument("--repeats", type=asked.count, default=10)
    chosen = parser.parse_args()
    if chosen.record:
        record(chosen.output_dir)
    table, plan = Table(), plan_of()
    directions = list(plan.objectives.values())
    reference = [plan.config.sweep.reference_point[name] for name in plan.objectives]
    whole = hypervolume(table.points, directions, reference)
    print(
        f"{cores()} cores, {platform.machine()}, Optuna {optuna.__version__}; "
        f"{len(table.points)} settings, {len(table.seeds)} seeds each, standard deviation "
        f"{table.spread:.4f} between seeds; share of the whole table's hypervolume, mean of "
        f"{chosen.repeats} repeats with the 95 % t interval of the mean"
    )
    earlier: dict = {}  # of the first way, repeat by repeat: what the others gain on
    t = stdtrit(chosen.repeats - 1, 0.975) / math.sqrt(chosen.repeats)
    print("sampler  first     trials   hypervolume            median   worst   same student again")
    with ProcessPoolExecutor(cores()) as executor:
        for name, first in itertools.product(chosen.samplers, chosen.first):
            count, most = chosen.repeats, max(chosen.budgets)
            same = (most, chosen.told_mean, first)
            each = ([name] * count, range(count), *([value] * count for value in same))
            runs = list(executor.map(search, *each))
            for budget in chosen.budgets:
                shares = [worth(run[:budget], directions, reference) / whole for run in runs]
                before = earlier.setdefault((name, budget), shares)
                gains = [now - then for now, then in zip(shares, before, strict=True)]
                mean, half = statistics.fmean(shares), t * statistics.stdev(shares)
                gain, within = statistics.fmean(gains), t * statistics.stdev(gains)
                twins = statistics.fmean(sum(one[3] for one in run[:budget]) for run in runs)
                print(
                    f"{name:8} {first:9}{budget:6}   "
                    f"{mean:.4f} ({mean - half:.4f} to {mean + half:.4f})"
                    f"   {statistics.median(shares):.4f}   {min(shares):.4f}   {twins:6.1f}"
                    f"   gain {gain:+.4f} ({gain - within:+.4f} to {gain + within:+.4f})",
                    flush=True,
                )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
