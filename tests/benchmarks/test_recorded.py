"""Searches that are replayed: over a table, and over recorded trials."""

import sys
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import create_trial

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("recorded", "samplers")
    yield [__import__(name) for name in names]
    for name in names:
        sys.modules.pop(name, None)


def test_the_table_holds_all_that_a_sampler_may_propose(modules) -> None:
    _, samplers = modules
    space = {item.key: item for item in samplers.plan_of().space}
    table = samplers.Table()
    for end in (0, 1):  # the low ends, then the high ones
        accuracies, size = table({key: space[key].probes()[end] for key in samplers.GRID})
        assert np.all((accuracies > 0) & (accuracies <= 1))
        assert size > 0


def test_the_nearest_recorded_trial_answers_and_none_twice(modules) -> None:
    recorded, _ = modules
    space = {"rate": FloatDistribution(0.01, 1, log=True), "depth": IntDistribution(1, 4)}
    settings = [(0.01, 1), (0.1, 1), (1.0, 4), (0.1, 4)]
    asked = [
        create_trial(params={"rate": r, "depth": d}, distributions=space, values=[d / 10, d])
        for r, d in settings
    ]
    depths = np.array([d for _, d in settings], dtype=float)
    ways = {"val_accuracy": "maximize", "num_params": "minimize"}
    table = recorded.Recorded(
        "small", ways, [], depths[:, None] / 10, depths, [0.0, 10.0], asked, []
    )
    first = [{"rate": 0.9, "depth": 4}, {"rate": 0.11, "depth": 1}]
    found = list(recorded.searched(table, [3, 2, 1, 0], 0, first))
    assert found[:2] == [2, 1]
    assert sorted(found) == [0, 1, 2, 3]
    assert table.volume([0, 2]) == pytest.approx(0.1 * (10 - 1) + 0.3 * (10 - 4))
