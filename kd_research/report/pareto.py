"""Pareto fronts and exact hypervolumes of any number of objectives.

A point is one value per objective; a direction is "maximize" or "minimize". A point with a None
(a trial that measured nothing) is on no front and adds no volume. Equal points stand on the front
together. The hypervolume slices along the last objective (While et al. 2006, "A faster algorithm
for calculating hypervolume", section II): exact, meant for fronts of hundreds of points and up
to five or so objectives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Direction = Literal["maximize", "minimize"]
Point = Sequence[float | None]


def pareto_front(points: Sequence[Point], directions: Sequence[str]) -> list[int]:
    """Indices of the non-dominated points, ascending.

    Raises:
        ValueError: a value is NaN or infinite, a direction is unknown, or lengths differ.
    """
    costs = [_costs(point, directions) for point in points]
    known = [(cost, index) for index, cost in enumerate(costs) if cost is not None]
    front: list[tuple[tuple[float, ...], int]] = []
    # In lexicographic order nothing later dominates anything earlier: the front is compared alone.
    for cost, index in sorted(known):
        if not any(_dominates(other, cost) for other, _ in front):
            front.append((cost, index))
    return sorted(index for _, index in front)


def hypervolume(
    points: Sequence[Point], directions: Sequence[str], reference: Sequence[float]
) -> float:
    """Volume that `points` dominate and that dominates `reference`, in the objectives' units.

    Points that are not better than the reference in every objective add nothing.

    Raises:
        ValueError: as `pareto_front`, or the reference is not finite.
    """
    corner = _costs(reference, directions)
    if corner is None:
        raise ValueError("the reference point must have a value for every objective")
    inside = []
    for point in points:
        cost = _costs(point, directions)
        if cost is not None and all(a < b for a, b in zip(cost, corner, strict=True)):
            inside.append(cost)
    return _volume(inside, corner)


def hypervolume_history(
    points: Sequence[Point], directions: Sequence[str], reference: Sequence[float]
) -> list[float]:
    """The hypervolume of the first 1, 2, ... len(points) points; never decreasing."""
    history: list[float] = []
    front: list[Point] = []
    for point in points:
        kept = pareto_front([*front, point], directions)
        if len(front) in kept:
            front = [[*front, point][index] for index in kept]
            history.append(hypervolume(front, directions, reference))
        else:
            history.append(history[-1] if history else 0.0)
    return history


def _costs(point: Point, directions: Sequence[str]) -> tuple[float, ...] | None:
    """The point with every objective to be minimised; None where a value is missing."""
    if len(point) != len(directions):
        raise ValueError(f"a point has {len(point)} values for {len(directions)} objectives")
    costs = []
    for value, direction in zip(point, directions, strict=True):
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"a direction must be maximize or minimize, got {direction!r}")
        if value is None:
            return None
        if not math.isfinite(value):
            raise ValueError(f"objective values must be finite, got {value}; use None instead")
        costs.append(-float(value) if direction == "maximize" else float(value))
    return tuple(costs)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _volume(costs: list[tuple[float, ...]], corner: tuple[float, ...]) -> float:
    """The minimisation hypervolume of points that are all strictly below the corner."""
    if not costs:
        return 0.0
    if len(corner) == 1:
        return corner[0] - min(costs)[0]
    total = 0.0
    ordered = sorted(costs, key=lambda cost: cost[-1])
    below: list[tuple[float, ...]] = []  # of the points up to this slice, all but the last axis
    for place, cost in enumerate(ordered):
        head = cost[:-1]
        if not any(other == head or _dominates(other, head) for other in below):
            below = [other for other in below if not _dominates(head, other)] + [head]
        top = ordered[place + 1][-1] if place + 1 < len(ordered) else corner[-1]
        if top > cost[-1]:
            total += (top - cost[-1]) * _volume(below, corner[:-1])
    return total
