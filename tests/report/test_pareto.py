import itertools
import math
import random

import pytest

from kd_research.report.pareto import hypervolume, hypervolume_history, pareto_front

DOWN = ["minimize", "minimize"]


def brute_front(points, directions):
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    costs = [[sign * value for sign, value in zip(signs, point, strict=True)] for point in points]
    return [
        index
        for index, cost in enumerate(costs)
        if not any(
            all(a <= b for a, b in zip(other, cost, strict=True)) and other != cost
            for other in costs
        )
    ]


def brute_volume(points, reference):
    """Inclusion and exclusion over all subsets, minimisation: an independent definition."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            sides = [
                max(0.0, corner - max(values))
                for corner, values in zip(reference, zip(*subset, strict=True), strict=True)
            ]
            total += (-1) ** (size + 1) * math.prod(sides)
    return total


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4])
def test_front_and_hypervolume_agree_with_brute_force(num_objectives):
    rng = random.Random(num_objectives)
    for _ in range(40):
        # A coarse grid makes ties and duplicates common.
        points = [[rng.randint(0, 5) for _ in range(num_objectives)] for _ in range(9)]
        directions = [rng.choice(["maximize", "minimize"]) for _ in range(num_objectives)]
        assert pareto_front(points, directions) == brute_front(points, directions)
        reference = [rng.choice([3, 5, 6]) for _ in range(num_objectives)]
        minimised = hypervolume(points, ["minimize"] * num_objectives, reference)
        assert minimised == pytest.approx(brute_volume(points, reference))


def test_staircase_has_its_closed_form():
    steps = 10  # (0, 9), (1, 8) ... (9, 0) under (10, 10): columns of 1 to 10
    points = [(step, steps - 1 - step) for step in range(steps)]
    assert hypervolume(points, DOWN, (steps, steps)) == steps * (steps + 1) / 2
    assert pareto_front(points, DOWN) == list(range(steps))


def test_directions_mirror_the_volume():
    points = [(0.9, 1000.0), (0.8, 500.0)]
    volume = hypervolume(points, ["maximize", "minimize"], (0.5, 2000.0))
    assert volume == pytest.approx(0.3 * 1500 + 0.1 * 1000)
    mirrored = [(-accuracy, size) for accuracy, size in points]
    assert hypervolume(mirrored, DOWN, (-0.5, 2000.0)) == pytest.approx(volume)


def test_duplicates_and_ties():
    assert pareto_front([(1, 1), (1, 1), (1, 2), (2, 1)], DOWN) == [0, 1]
    assert hypervolume([(1, 1), (1, 1)], DOWN, (2, 2)) == 1


def test_missing_values_are_on_no_front():
    points = [(None, 0.0), (1.0, 1.0), (0.0, None)]
    assert pareto_front(points, DOWN) == [1]
    assert hypervolume(points, DOWN, (2, 2)) == 1
    assert pareto_front([], DOWN) == []
    assert hypervolume([], DOWN, (2, 2)) == 0
    assert hypervolume([(3, 3), (2, 0)], DOWN, (2, 2)) == 0  # outside, and on the border


def test_history_is_the_hypervolume_of_each_prefix():
    rng = random.Random(0)
    points = [[rng.random(), rng.random(), rng.random()] for _ in range(30)]
    points[3] = [None, 0.1, 0.1]
    directions = ["maximize", "minimize", "minimize"]
    history = hypervolume_history(points, directions, (0.0, 1.0, 1.0))
    assert history == pytest.approx(
        [hypervolume(points[: k + 1], directions, (0.0, 1.0, 1.0)) for k in range(30)]
    )
    assert history == sorted(history)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_values_are_refused(value):
    with pytest.raises(ValueError, match="must be finite"):
        pareto_front([(value, 1.0)], DOWN)
    with pytest.raises(ValueError, match="must be finite"):
        hypervolume([(0.0, 1.0)], DOWN, (value, 1.0))


def test_wrong_shapes_and_directions_are_refused():
    with pytest.raises(ValueError, match="maximize or minimize, got 'up'"):
        pareto_front([(1.0,)], ["up"])
    with pytest.raises(ValueError, match="3 values for 2 objectives"):
        pareto_front([(1.0, 2.0, 3.0)], DOWN)
