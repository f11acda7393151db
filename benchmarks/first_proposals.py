"""What first proposals gain in a search: `python benchmarks/first_proposals.py DIR [DIR ...]`.

DIR is a recorded sweep, see recorded.py. TPE searches it in sweeps of a few trials each, in random
orders of the recorded trials, which are also the sampler's seeds. It begins with

- nothing: the sampler alone
- defaults: the configuration's own values, as every sweep does
- a sweep: these, then what `sweep.start_from=SWEEP` takes of it, for each of --start-from

What is told is the hypervolume as a share of that of all recorded trials, and its difference to
`nothing`, and to `defaults`, order by order, with its 95 % t interval.
"""

import argparse
import os
import platform
import statistics
import sys
from pathlib import Path

import asked
import numpy as np
import optuna
from recorded import Recorded, half_interval, plan_of, recorded, searched

from kd_research.pools.local import cores


def proposals(table: Recorded, way: str, budget: int) -> list[dict]:
    """What a sweep of so many trials tries first."""
    if way == "nothing":
        return []
    typed = [*table.typed, f"sweep.n_trials={budget}", "sweep.name=replay"]
    typed += [] if way == "defaults" else [f"sweep.start_from={way}"]
    return [params for params, _ in plan_of(*typed).first()]


def shares(table: Recorded, way: str, budget: int, orders: int) -> list[float]:
    """The share of all hypervolume after so many trials, in each order."""
    count, first = len(table.sizes), proposals(table, way, budget)
    whole, found = table.volume(range(count)), []
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(count).tolist()
        trials = searched(table, order, seed, first)
        found.append(table.volume([next(trials) for _ in range(budget)]) / whole)
    return found


def difference(values: list[float], others: list[float]) -> str:
    more = [100 * (one - other) for one, other in zip(values, others, strict=True)]
    return f"{statistics.fmean(more):+7.2f} ± {half_interval(more):4.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", type=asked.sweep, nargs="+", help="recorded sweeps")
    parser.add_argument(
        "--start-from", type=asked.sweep, nargs="*", default=[], help="folders of other sweeps"
    )
    parser.add_argument("--budgets", nargs="+", type=asked.count, default=[8, 16, 32])
    parser.add_argument("--orders", type=asked.count, default=20)
    chosen = parser.parse_args()
    for directory in chosen.directories:
        table = recorded(directory)
        print(
            f"{table.name}: {len(table.sizes)} trials, {chosen.orders} orders, Optuna "
            f"{optuna.__version__}, {cores()} cores, {platform.machine()}: % of all hypervolume, "
            "points more than nothing and than defaults (95 % interval)"
        )
        for budget in chosen.budgets:
            known: dict[str, list[float]] = {}
            for way in ("nothing", "defaults", *map(str, chosen.start_from)):
                known[way] = now = shares(table, way, budget, chosen.orders)
                line = f"{budget:4} trials  {Path(way).name:<18}{100 * statistics.fmean(now):7.2f}"
                for other in list(known)[:2] if len(known) > 1 else ():
                    line += f"  {difference(now, known[other])}" if other != way else ""
                print(line, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
