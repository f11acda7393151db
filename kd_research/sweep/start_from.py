"""What another sweep found best, as first proposals: `sweep.start_from=SWEEP`.

That sweep may have had other data or another teacher. So none of its values is taken over, nor
told to the sampler, which would rank them with what is found here: its settings are run anew, and
give results of this sweep's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kd_research.configuration.config import ConfigError
from kd_research.records.record import SWEEP_NAME
from kd_research.report.load import load_sweep
from kd_research.report.pareto import hypervolume, pareto_front
from kd_research.report.sweep import Sweep, Trial
from kd_research.sweep.space import Dimension, Value

Proposal = tuple[dict[str, Value], str]  # and whose it is


def of_sweep(
    stated: str,
    own: Path,
    output_dir: str,
    space: Sequence[Dimension],
    objectives: Mapping[str, str],
    most: int,
) -> tuple[list[Proposal], str]:
    """The settings on another sweep's front, as far as they are searched here.

    The front is that of this sweep's objectives, by the means over the other one's seeds. What the
    other did not search, or has outside of the range here, is left to the sampler.

    Args:
        stated: the other sweep's folder, or its name under `output_dir`.
        own: the folder of this one.
        output_dir: where sweeps are.
        space: of this sweep.
        objectives: name -> maximize or minimize, of this sweep.
        most: so many of them at most, those of the most hypervolume.

    Returns:
        Proposals, and a note on what was taken.

    Raises:
        ConfigError: there is no such sweep, or nothing of it can be tried here.
    """
    folder = _folder(stated, own, output_dir)
    found = load_sweep(folder)
    front, why = _front(found, objectives), ""
    apart: list[Proposal] = []
    points: list[list[float]] = []
    left: dict[str, None] = {}
    for trial in front:
        params, not_taken = _shared(trial, space)
        left |= dict.fromkeys(not_taken)
        if params and params not in [known for known, _ in apart]:
            apart.append((params, f"{found.name}, trial {trial.number}"))
            points.append([trial.mean(name) or 0.0 for name in objectives])
    if not front:
        why = _without_front(found, objectives)
    elif not apart:
        why = f"of its front there is nothing to try here: {', '.join(left)}"
    if why:
        raise ConfigError([f"sweep.start_from={stated}: {why}; give another one, or leave it out"])
    corner = [found.reference_point.get(name) for name in objectives]
    taken = [apart[i] for i in most_volume(points, list(objectives.values()), corner, most)]
    note = f"note: {len(taken)} of the {len(front)} settings on the front of {found.name} are tried"
    note += f"; not taken: {', '.join(left)}" if left else ""
    if not found.spec:
        note += f"; {found.damaged[0]}"
    return taken, note


def _folder(stated: str, own: Path, output_dir: str) -> Path:
    places = [Path(os.path.expanduser(stated)), Path(output_dir, "sweeps", stated)]
    places = list(dict.fromkeys(places)) if stated.strip() else []
    folder = next((place for place in places if os.path.exists(place / SWEEP_NAME)), None)
    if folder is None:
        there = sorted(path.parent.name for path in Path(output_dir).glob(f"sweeps/*/{SWEEP_NAME}"))
        hint = f"try sweep.start_from={there[0]}" if there else "leave it out"
        looked = f"; looked for {SWEEP_NAME} in {', '.join(map(str, places))}" if places else ""
        raise ConfigError(
            [
                f"sweep.start_from={stated or repr(stated)} is no sweep's folder{looked}; "
                f"there are: {', '.join(there) or 'none'}; {hint}"
            ]
        )
    if folder.resolve() == own:
        raise ConfigError([f"sweep.start_from={stated} is this sweep itself; leave it out"])
    return folder


def _front(sweep: Sweep, objectives: Mapping[str, str]) -> list[Trial]:
    """Another sweep's front by these objectives, the best in the first of them first."""
    done = [trial for trial in sweep.trials if trial.state == "completed"]
    points = [[trial.mean(name) for name in objectives] for trial in done]
    front = [done[index] for index in pareto_front(points, list(objectives.values()))]
    name, way = next(iter(objectives.items()))
    return sorted(front, key=lambda trial: trial.mean(name) or 0.0, reverse=way == "maximize")


def _without_front(sweep: Sweep, objectives: Mapping[str, str]) -> str:
    done = [trial for trial in sweep.trials if trial.state == "completed"]
    if not done:
        return "no trial has completed"
    lacking = [name for name in objectives if all(trial.mean(name) is None for trial in done)]
    return f"none of its trials has {' and '.join(lacking or objectives)}"


def _shared(trial: Trial, space: Sequence[Dimension]) -> tuple[dict[str, Value], list[str]]:
    """What of a trial's settings is in the space; and what is not, or is not in its range."""
    params: dict[str, Value] = {}
    known = {item.config_key for item in space}
    left = [f"{key} (not searched here)" for key in trial.params if key not in known]
    for item in sorted(space, key=lambda item: not item.is_group):
        wanted = item.only is None or params.get(item.only[0]) == item.only[1]
        if not wanted or item.config_key not in trial.params:
            continue
        value = trial.params[item.config_key]
        if item.holds(value):
            params[item.key] = value
        else:
            left.append(f"{item.config_key} outside of {item.expression}")
    return params, left


def most_volume(
    points: Sequence[Sequence[float]],
    directions: Sequence[str],
    reference: Sequence[float | None],
    most: int,
) -> list[int]:
    """Indices of so many points, each the one that adds most hypervolume to those before it.

    What adds nothing is left out, but for the first.

    Args:
        points: of a front, with a value per objective.
        directions: maximize or minimize, of each objective.
        reference: the corner; where it lacks a value, that lies as far behind the worst of the
            points as the best does before it.
        most: so many at most.
    """
    corner = []
    for at, way, values in zip(reference, directions, zip(*points, strict=True), strict=True):
        worst, best = sorted((min(values), max(values)), reverse=way == "minimize")
        corner.append(2 * worst - best if at is None else float(at))
    taken: list[int] = []
    before = 0.0
    while len(taken) < min(most, len(points)):
        volumes = [
            hypervolume([points[i] for i in (*taken, new)], directions, corner)
            for new in range(len(points))
        ]
        if taken and max(volumes) <= before:
            break
        before = max(volumes)
        taken.append(volumes.index(before))
    return taken
