"""Whether fewer epochs a trial find a better front: `python benchmarks/fidelity.py DIR [DIR ...]`.

Each DIR is a recorded sweep: whole runs, one seed, by a sampler that does not learn, with the
objectives `val_accuracy` and one that is known before the first epoch. The commands that record
those of docs/explanation/early_stopping.md stand there. Every method is replayed on the curves,
one trial after the other, in random orders of the trials. It is paid in epochs, and has for a
front what it has run to the end:

random: whole runs. tpe: whole runs too, chosen by Optuna's TPE as conf/sampler has it, each
proposal being the recorded trial that is nearest to it and was not run. curves 0.95:
`sweep.early_stopping`. halving: asynchronous successive halving with reduction 3 (Schmucker et al.
2021, arXiv:2106.12639), whose rungs are a ninth and a third of the epochs. Who goes on is ranked by

- layers: non-dominated sorting, then the crowding distance (Deb et al. 2002, section III)
- net: non-dominated sorting, then the epsilon-net (Schmucker et al. 2021, section 3.2)
- accuracy: the accuracy alone
- bands: the share of the trials of about the same size (a third of all) that are better
- gain: by how much the front would grow by the accuracy that is expected at the end. That is a
  line from the accuracy so far and the size, fitted to what has finished; until 8 have: layers.

What is told is the hypervolume as a share of that of all recorded trials, and its difference to
tpe, order by order, with its 95 % t interval.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import asked
import numpy as np
from numpy.typing import NDArray
from recorded import Recorded, half_interval, recorded, searched

from kd_research.pools.local import cores
from kd_research.report.pareto import hypervolume, pareto_front
from kd_research.sweep.early_stopping import Finished, Rule

SHARES = (1 / 12, 1 / 6, 1 / 4)  # of the epochs of all recorded trials
REDUCTION = 3
RUNGS = 2  # before the last
LEAST = 8  # finished trials that a line is fitted to
Steps = Iterator[tuple[int, int | None]]  # epochs paid, then the trial that they finished, if any


def whole_runs(table: Recorded, order: list[int]) -> Steps:
    for trial in order:
        yield table.epochs, trial


def tpe(table: Recorded, order: list[int], seed: int) -> Steps:
    for trial in searched(table, order, seed):
        yield table.epochs, trial


def curves(table: Recorded, order: list[int], confidence: float = 0.95) -> Steps:
    """`sweep.early_stopping`."""
    size = list(table.objectives)[1]
    rule, finished = Rule(table.objectives, confidence), []
    for trial in order:
        known = table.curves[trial]
        for epochs in range(1, table.epochs):
            so_far = {name: values[:epochs] for name, values in known.items()}
            if rule.judge(so_far, {size: table.sizes[trial]}):
                yield epochs, None
                break
        else:
            values = {"val_accuracy": table.accuracy[trial, -1], size: table.sizes[trial]}
            finished.append(Finished(trial, [known], values))
            rule.learn(finished)
            yield table.epochs, trial


def halving(table: Recorded, order: list[int], ranking: str) -> Steps:
    """Asynchronous successive halving: who may go on does, else the next one begins."""
    rungs = [max(1, table.epochs // REDUCTION**k) for k in range(RUNGS, -1, -1)]
    reached: dict[int, int] = {}  # of a trial: its rung
    new = iter(order)
    while True:
        going_on = promoted(table, reached, rungs, ranking)
        trial = next(new, None) if going_on is None else going_on
        if trial is None:
            return
        rung = reached.get(trial, -1) + 1
        reached[trial] = rung
        paid = rungs[rung] - (rungs[rung - 1] if rung else 0)
        yield paid, trial if rung == RUNGS else None


def promoted(
    table: Recorded, reached: dict[int, int], rungs: list[int], ranking: str
) -> int | None:
    """The best of the trials that are in their rung's best third and have not gone on."""
    finished = [trial for trial, rung in reached.items() if rung == RUNGS]
    for rung in reversed(range(RUNGS)):
        there = [trial for trial, at in reached.items() if at >= rung]
        if all(reached[trial] > rung for trial in there):
            continue
        ranked = RANKINGS[ranking](table, there, rungs[rung], finished)
        for trial in ranked[: len(there) // REDUCTION]:
            if reached[trial] == rung:
                return trial
    return None


def layers(table: Recorded, trials: list[int], epochs: int, _: list[int]) -> list[int]:
    return by_layers(table, trials, epochs, crowding)


def net(table: Recorded, trials: list[int], epochs: int, _: list[int]) -> list[int]:
    return by_layers(table, trials, epochs, farthest_first)


def by_layers(table: Recorded, trials: list[int], epochs: int, within: Callable) -> list[int]:
    """The front, then the front of the others, and so on, each in the order of `within`."""
    points = np.column_stack((table.accuracy[trials, epochs - 1], table.sizes[trials]))
    scaled = np.argsort(np.argsort(points, axis=0, kind="stable"), axis=0) / len(trials)
    left, found = list(range(len(trials))), []
    while left:
        front = pareto_front(points[left].tolist(), ["maximize", "minimize"])
        layer = [left[i] for i in front]
        found += [trials[layer[i]] for i in within(scaled[layer])]
        left = [i for i in left if i not in set(layer)]
    return found


def crowding(points: NDArray[np.float64]) -> list[int]:
    """The largest distance between the neighbours first; the ends before all."""
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += column[order[2:]] - column[order[:-2]]
    return np.argsort(-distance, kind="stable").tolist()


def farthest_first(points: NDArray[np.float64]) -> list[int]:
    """The first, then always the one that is farthest from all before it."""
    found = [0]
    nearest = np.full(len(points), np.inf)
    while len(found) < len(points):
        nearest = np.minimum(nearest, np.linalg.norm(points - points[found[-1]], axis=1))
        nearest[found] = -1
        found.append(int(nearest.argmax()))
    return found


def accuracy(table: Recorded, trials: list[int], epochs: int, _: list[int]) -> list[int]:
    values = table.accuracy[trials, epochs - 1]
    return [trials[i] for i in np.argsort(-values, kind="stable")]


def bands(table: Recorded, trials: list[int], epochs: int, _: list[int]) -> list[int]:
    """By the share of the third of the trials that is nearest in size and is better."""
    values, sizes = table.accuracy[trials, epochs - 1], np.log(table.sizes[trials])
    count = max(REDUCTION, len(trials) // REDUCTION)
    shares = []
    for value, size in zip(values, sizes, strict=True):
        nearest = np.argsort(np.abs(sizes - size), kind="stable")[:count]
        shares.append(float((values[nearest] > value).mean()))
    return [trials[i] for i in np.argsort(shares, kind="stable")]


def gain(table: Recorded, trials: list[int], epochs: int, finished: list[int]) -> list[int]:
    """By what a trial that ends as is expected adds to the front of those that are at their end."""
    if len(finished) < LEAST:
        return layers(table, trials, epochs, finished)

    def known(which: list[int]) -> NDArray[np.float64]:
        size = np.log(table.sizes[which])
        return np.column_stack((np.ones(len(which)), table.accuracy[which, epochs - 1], size))

    at_end = table.accuracy[finished, -1]
    line, *_ = np.linalg.lstsq(known(finished), at_end, rcond=None)
    spread = float(np.std(at_end - known(finished) @ line))
    expected = np.minimum(known(trials) @ line + spread, 1.0)
    points = [[float(table.accuracy[i, -1]), float(table.sizes[i])] for i in finished]
    gains = []
    for trial, value in zip(trials, expected, strict=True):
        others = [p for p, i in zip(points, finished, strict=True) if i != trial]
        point = [float(value), float(table.sizes[trial])]
        more = hypervolume([*others, point], ["maximize", "minimize"], table.reference)
        gains.append(more - hypervolume(others, ["maximize", "minimize"], table.reference))
    return [trials[i] for i in np.argsort(-np.array(gains), kind="stable")]


RANKINGS = {each.__name__: each for each in (layers, net, accuracy, bands, gain)}
METHODS = ("random", "tpe", "curves 0.95", *(f"halving {name}" for name in RANKINGS))


def steps_of(method: str, table: Recorded, order: list[int], seed: int) -> Steps:
    if method == "random":
        return whole_runs(table, order)
    if method == "tpe":
        return tpe(table, order, seed)
    kind, _, setting = method.partition(" ")
    return (
        curves(table, order, float(setting)) if kind == "curves" else halving(table, order, setting)
    )


def replay(directory: Path, method: str, seed: int) -> list[float]:
    """The share of all hypervolume, once each share of all epochs is spent."""
    table = recorded(directory)
    count = len(table.sizes)
    order = np.random.default_rng(seed).permutation(count).tolist()
    whole, found = table.volume(list(range(count))), []
    spent, finished, budgets = 0, [], [share * count * table.epochs for share in SHARES]
    for paid, trial in steps_of(method, table, order, seed):
        while budgets and spent + paid > budgets[0]:
            found.append(table.volume(finished) / whole)
            budgets.pop(0)
        if not budgets:
            return found
        spent += paid
        if trial is not None:
            finished.append(trial)
    return found + [table.volume(finished) / whole] * len(budgets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", type=asked.sweep, nargs="+", help="recorded sweeps")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--orders", type=asked.count, default=20)
    chosen = parser.parse_args()
    methods = ["tpe", *(name for name in chosen.methods if name != "tpe")]
    with ProcessPoolExecutor(cores()) as executor:
        for directory in chosen.directories:
            table = recorded(directory)
            runs = [len(table.sizes) * share for share in SHARES]
            print(
                f"{table.name}: {len(table.sizes)} trials of {table.epochs} epochs, "
                f"{chosen.orders} orders; as many epochs as {', '.join(f'{n:.0f}' for n in runs)} "
                "whole runs: % of all hypervolume, and points more than tpe (95 % interval)"
            )
            found = {}
            for method in methods:
                replays = executor.map(partial(replay, directory, method), range(chosen.orders))
                found[method] = np.array(list(replays))
                print(f"{method:<17}" + "".join(told(found[method], found["tpe"])), flush=True)


def told(values: NDArray[np.float64], baseline: NDArray[np.float64]) -> list[str]:
    found = []
    for one, other in zip(values.T, baseline.T, strict=True):
        more = one - other
        half = half_interval(more)
        found.append(f"{100 * one.mean():7.2f} {100 * more.mean():+6.2f} ± {100 * half:4.2f}  ")
    return found


if __name__ == "__main__":
    main()
