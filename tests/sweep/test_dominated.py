"""A proposal that its first seed shows to be dominated gets no other one."""

import json
import math

import optuna
import pytest
from sweep_commands import folder, scripted

from kd_research.records.record import RunRecord
from kd_research.sweep.dominated import Proposal, why_dominated

OBJECTIVES = {"val_accuracy": "maximize", "num_params": "minimize"}
FINISHED = [Proposal(n, [0.9, 100 + n], [0.01, 0.0]) for n in range(10)]


def judge(first, finished=FINISHED, confidence=0.99):
    return why_dominated(first, finished, 2, OBJECTIVES, confidence)


def test_the_margin_is_a_t_interval_shared_out_over_the_comparisons():
    # 10 degrees of freedom, t at 1 - 0.01 / 10 is 4.1437; times 0.01 sqrt(1 + 1/2)
    margin = 4.1437 * 0.01 * math.sqrt(1.5)
    assert judge([0.9 - margin - 1e-5, 100]) is not None
    assert judge([0.9 - margin + 1e-5, 100]) is None
    assert "by trial 0 with confidence 0.99: val_accuracy 0.8 against 0.9" in judge([0.8, 100])


def test_a_smaller_one_is_never_confidence_and_few_trials_say_nothing():
    assert judge([0.1, 99]) is None
    assert judge([0.1, 100], FINISHED[:9]) is None
    assert judge([0.9, 100]) is None


def run_of(directory):
    """Accuracy falls with the temperature; the seed adds a little."""
    params = json.loads((directory.parent / "proposal.json").read_text())["params"]
    seed = int(directory.name.removeprefix("seed-"))
    accuracy = 1 - params["loss.temperature"] / 25 + (0.001, -0.001)[seed]
    metrics, costs = {"val_accuracy": accuracy}, {"num_params": 100}
    return [], RunRecord("completed", {}, seed, metrics, costs)


@pytest.mark.parametrize(("confidence", "total"), [("0.99", 18), ("null", 11)])
def test_dominated_proposals_stop_after_one_seed(tmp_path, confidence, total):
    report, pool = scripted(
        tmp_path,
        run_of,
        f"sweep.n_trials={total}",
        "sweep.seeds=2",
        f"sweep.prune_dominated={confidence}",
    )
    url = f"sqlite:///{folder(tmp_path)}/study.db"
    study = optuna.load_study(study_name="s", storage=url)
    assert len(study.trials) == len(report.trials) == total
    stopped = [trial for trial in report.trials if trial.state == "pruned"]
    assert report.counts == {
        "completed": total - len(stopped), "running": 0, "failed": 0, "pruned": len(stopped)
    }  # fmt: skip
    assert len(pool.started) == len(set(pool.started)) == 2 * total - len(stopped)
    if confidence == "null":
        assert not stopped
        return
    assert len(stopped) >= 2
    for trial in stopped:
        assert "dominated after one of 2 seeds" in trial.error
        assert [record.status for record in trial.records] == ["completed", "pruned"]
        told = study.trials[trial.number]
        # The sampler learns from its one value, which counts as no mean and has no spread.
        assert told.state == optuna.trial.TrialState.COMPLETE
        assert told.values[0] == trial.records[0].value("val_accuracy")
        assert told.user_attrs["pruned"] == trial.error
        assert not any(key.startswith("spread") for key in told.user_attrs)
        assert trial not in report.front
        assert told.number not in [best.number for best in study.best_trials]
    whole = [trial for trial in report.trials if trial.state == "completed"]
    assert all("spread val_accuracy" in study.trials[one.number].user_attrs for one in whole)


def test_fixed_rows_run_all_their_seeds_side_by_side_and_go_on(tmp_path):
    rows = ",".join(f"r{n}: {{overrides: {{loss.temperature: {n}}}}}" for n in range(1, 7))
    what = ("sweep.space={}", "sweep.seeds=2", f"+sweep.rows={{{rows}}}")
    report, first = scripted(tmp_path, run_of, *what, stop_after=5)
    assert report.counts["completed"] < 6
    report, second = scripted(tmp_path, run_of, *what)
    assert report.counts == {"completed": 6, "running": 0, "failed": 0, "pruned": 0}
    assert [trial.label for trial in report.trials] == [f"r{n}" for n in range(1, 7)]
    one, other = set(first.started), set(second.started)
    assert len(one | other) == 12
    assert one & other <= set(first.killed)


def test_an_interrupted_proposal_is_judged_when_it_goes_on(tmp_path):
    what = ("sweep.n_trials=16", "sweep.seeds=2")
    scripted(tmp_path, run_of, *what, stop_after=23)
    report, _ = scripted(tmp_path, run_of, *what)
    assert len(report.trials) == 16
    assert report.counts["completed"] + report.counts["pruned"] == 16
    assert report.counts["pruned"] >= 1
