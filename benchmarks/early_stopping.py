"""What stopping early saves and costs: `python benchmarks/early_stopping.py [DIR]`.

DIR is a sweep without stopping, best of a sampler that does not learn, so that its trials may come
in any order; the one of docs/explanation/early_stopping.md is made, in minutes, by

    python -m kd_research.run -m sampler=random sweep.n_trials=120 sweep.name=recorded

`sweep.early_stopping` is replayed on its curves. Without DIR `sweep.prune_dominated` is replayed on
the table beside this file (`samplers.csv`: real distillations of the digits, several seeds each).
Each trial comes after the other, in random orders. Regret is what the front without the stopped
trials lacks of the front of all.
"""

import argparse
import csv
import statistics
from pathlib import Path

import asked
import numpy as np

from kd_research.report.load import load_sweep
from kd_research.report.pareto import hypervolume, pareto_front
from kd_research.sweep.dominated import Proposal, why_dominated
from kd_research.sweep.early_stopping import BEFORE, Finished, Rule, curves_of

OBJECTIVES = {"val_accuracy": "maximize", "num_params": "minimize"}
REFERENCE = [0.8, 10000]  # of the default sweep


def recorded(directory):
    """The completed trials of a sweep."""
    sweep = load_sweep(directory)
    trials = [
        (
            Finished(
                trial.number,
                [curves_of(run.curves()) for run in trial.runs],
                {name: trial.mean(name) for name in sweep.objectives},
                sweep.feasible(trial),
            ),
            {name: trial.mean(name) for name in BEFORE},
        )
        for trial in sweep.trials
        if trial.state == "completed"
    ]
    reference = [float(sweep.reference_point[name]) for name in sweep.objectives]
    return trials, sweep.objectives, reference


def replay_curves(trials, objectives, confidence, order):
    """The share of epochs that are saved, and the places of the stopped trials."""
    rule, finished, stopped, run, whole = Rule(objectives, confidence), [], [], 0, 0
    for place in order:
        trial, costs = trials[place]
        curves = trial.curves[0]
        length = len(curves["val_accuracy"])
        used = length
        for epochs in range(1, length):
            if rule.judge({name: v[:epochs] for name, v in curves.items()}, costs):
                used = epochs
                stopped.append(place)
                break
        else:
            finished.append(trial)
            rule.learn(finished)
        run, whole = run + used, whole + length
    return 1 - run / whole, stopped


def replay_seeds(rows, confidence, order):
    """The share of runs that are saved, and the places of the dominated proposals."""
    finished, stopped, run = [], [], 0
    for place in order:
        values, size = rows[place]
        if why_dominated([values[0], size], finished, len(values), OBJECTIVES, confidence):
            stopped.append(place)
            run += 1
            continue
        means, spreads = [statistics.fmean(values), size], [statistics.stdev(values), 0.0]
        finished.append(Proposal(place, means, spreads))
        run += len(values)
    return 1 - run / sum(len(values) for values, _ in rows), stopped


def regret(points, stopped, directions, reference):
    """The share of the hypervolume that is lost, the front members lost, and how many there are."""
    kept = [point for place, point in enumerate(points) if place not in stopped]
    whole = hypervolume(points, directions, reference)
    front = pareto_front(points, directions)
    lost = len(set(front) & set(stopped))
    return 1 - hypervolume(kept, directions, reference) / whole, lost, len(front)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=asked.sweep, nargs="?", help="a recorded sweep")
    parser.add_argument("--confidence", type=asked.share, nargs="+", default=[0.8, 0.9, 0.95, 0.99])
    parser.add_argument("--orders", type=asked.count, default=20)
    chosen = parser.parse_args()
    if chosen.directory:
        trials, objectives, reference = recorded(chosen.directory)
        points = [list(trial.values.values()) for trial, _ in trials]
        what, directions = "epochs", list(objectives.values())
    else:
        with Path(__file__).with_name("samplers.csv").open() as stream:
            table = list(csv.DictReader(stream))
        rows = [
            ([float(v) for k, v in row.items() if k.startswith("val_")], float(row["num_params"]))
            for row in table
        ]
        points = [[statistics.fmean(values), size] for values, size in rows]
        what, directions, reference = "runs", list(OBJECTIVES.values()), REFERENCE
    print(f"{len(points)} trials, {chosen.orders} random orders: mean (smallest to largest)")
    for confidence in chosen.confidence:
        found = []
        for seed in range(chosen.orders):
            order = np.random.default_rng(seed).permutation(len(points))
            if chosen.directory:
                saved, stopped = replay_curves(trials, objectives, confidence, order)
            else:
                saved, stopped = replay_seeds(rows, confidence, order)
            found.append((saved, len(stopped), *regret(points, stopped, directions, reference)))
        saved, stops, volume, lost, front = zip(*found, strict=True)
        print(
            f"confidence {confidence:g}: {_told(saved)} of the {what} saved, {_told(stops, 0)} "
            f"trials stopped; hypervolume lost {_told(volume, 4)}, "
            f"of {front[0]} front members {_told(lost, 1)}",
            flush=True,
        )


def _told(values, digits=3):
    ends = f"({min(values):.{digits}f} to {max(values):.{digits}f})"
    return f"{statistics.fmean(values):.{digits}f} {ends}"


if __name__ == "__main__":
    main()
