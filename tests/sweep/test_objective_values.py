"""From a trial's records to what the study is told."""

from kd_research.configuration.constraints import Constraint
from kd_research.records.record import RunRecord
from kd_research.sweep.objective_values import Values

LIMITS = [Constraint("num_params", "<=", 100.0), Constraint("val_accuracy", ">=", 0.5)]


def record(accuracy, status="completed", error=None):
    costs = {"num_params": 120}
    return RunRecord(status, {}, 0, {"val_accuracy": accuracy}, costs, error=error)


def test_the_mean_over_seeds_with_its_spread_and_limits():
    result = Values(["val_accuracy", "num_params"], LIMITS).of([record(0.5), record(0.75)])
    assert result.values == [0.625, 120]
    assert result.reason is None
    assert result.attributes["spread val_accuracy"] == 0.125 * 2**0.5
    assert result.excesses == {"num_params <= 100": 20, "val_accuracy >= 0.5": -0.125}


def test_a_failed_or_unmeasured_seed_fails_the_trial_with_its_reason():
    values = Values(["val_accuracy"])
    failed = values.of([record(0.5), record(None, "failed", "out of memory")])
    assert (failed.values, failed.reason) == (None, "out of memory")
    for wrong in (None, float("nan"), float("inf")):
        result = values.of([record(0.5), record(wrong)])
        assert result.values is None
        assert result.reason == "its val_accuracy was not measured, or is not finite"
