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
    names = ("recorded", "samplers", "fidelity")
    yield [__import__(name) for name in names]
    for name in names:
        sys.modules.pop(name, None)


def test_the_table_holds_all_that_a_sampler_may_propose(modules) -> None:
    _, samplers, _ = modules
    space = {item.key: item for item in samplers.plan_of().space}
    table = samplers.Table()
    for end in (0, 1):  # the low ends, then the high ones
        accuracies, size = table({key: space[key].probes()[end] for key in samplers.GRID})
        assert np.all((accuracies > 0) & (accuracies <= 1))
        assert size > 0


def test_the_nearest_recorded_trial_answers_and_none_twice(modules) -> None:
    recorded, *_ = modules
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


def test_methods_are_paid_in_epochs_and_have_what_they_ran_to_the_end(modules) -> None:
    recorded, _, fidelity = modules
    space = {"width": IntDistribution(1, 12)}
    widths = np.arange(1.0, 13.0)
    accuracy = (1 - 1 / widths)[:, None] * np.linspace(0.2, 1, 9)  # the wider, the better
    asked = [
        create_trial(params={"width": w}, distributions=space, values=[0.0, w])
        for w in range(1, 13)
    ]
    ways = {"val_accuracy": "maximize", "num_params": "minimize"}
    curves = [{"val_accuracy": curve} for curve in accuracy]
    table = recorded.Recorded("curves", ways, curves, accuracy, widths, [0.0, 13.0], asked, [])
    order = [5, 0, 11, 3, 8, 1, 7, 2, 10, 4, 9, 6]
    for method in fidelity.METHODS:
        paid, ended = zip(*fidelity.steps_of(method, table, order, 0), strict=True)
        done = [trial for trial in ended if trial is not None]
        assert len(done) == len(set(done))
        assert 9 * len(done) <= sum(paid) <= 9 * 12
        if method in ("random", "tpe", "curves 0.95"):  # a rule without 19 trials stops none
            assert sorted(done) == list(range(12))
        else:  # a third of the twelve goes on, and of these a third; who is first may lose later
            assert set(paid) == {1, 2, 6}
            assert 4 <= paid.count(2) < 12
            assert 1 <= paid.count(6) < 4
    best = [t for _, t in fidelity.halving(table, order, "accuracy") if t is not None]
    assert 11 in best
