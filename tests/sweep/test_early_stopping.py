"""Runs whose curves show them to be dominated are stopped; nothing else is."""

import json
import math

import numpy as np
import optuna
import pytest
from sweep_commands import folder, make_plan, processes_of, records, scripted, sweep

from kd_research.configuration.config import ConfigError
from kd_research.records.record import RunRecord
from kd_research.sweep.early_stopping import CURVES, Finished, Rule, curves_of

OBJECTIVES = {"val_accuracy": "maximize", "num_params": "minimize"}
EPOCHS = 12


def errors(end, rate=0.5):
    """The error after each epoch, from 0.9 down to `end`."""
    return [end + (0.9 - end) * rate ** (epoch + 1) for epoch in range(EPOCHS)]


def rows_of(found):
    return [
        {"epoch": epoch, "val_accuracy": 1 - error, "val_nll": 2 * error}
        for epoch, error in enumerate(found)
    ]


def finished(number, end, size, rate=0.5):
    curves = curves_of(rows_of(errors(end, rate)))
    value = float(curves["val_accuracy"][-1])
    return Finished(number, [curves], {"val_accuracy": value, "num_params": size})


def test_a_curve_is_that_of_the_selected_epoch():
    rows = [{"epoch": -1, "num_params": 3}, *rows_of([0.5, 0.3, 0.4, 0.2])]
    curves = curves_of(rows)
    assert curves["val_accuracy"].tolist() == [0.5, 0.7, 0.7, 0.8]
    assert curves["val_nll"].tolist() == [1.0, 0.6, 0.6, 0.4]


def known(count=20, confidence=0.95):
    rule = Rule(OBJECTIVES, confidence)
    rule.learn([finished(n, 0.1 + n / 100, 100, rate=0.4 + n / 100) for n in range(count)])
    return rule


def first_stop(rule, found, size):
    for epochs in range(1, EPOCHS + 1):
        stop = rule.judge(curves_of(rows_of(found[:epochs])), {"num_params": size})
        if stop is not None:
            return epochs, stop
    return None


def test_a_dominated_curve_is_stopped_and_says_why():
    epochs, stop = first_stop(known(), errors(0.6), 100)
    assert 1 < epochs < EPOCHS
    assert stop.error.startswith(f"stopped after {epochs} epochs: dominated by trial 0 with ")
    assert "confidence 0.95: val_accuracy at best 0." in stop.error
    assert stop.metrics["val_accuracy"] == pytest.approx(1 - errors(0.6)[epochs - 1])
    expected = stop.selection["expected"]["val_accuracy"]
    assert stop.metrics["val_accuracy"] <= expected < known().finished[0].values["val_accuracy"]


def test_what_may_still_be_on_the_front_is_not_stopped():
    assert first_stop(known(), errors(0.6), 99) is None, "a smaller one"
    assert first_stop(known(), errors(0.05), 100) is None, "a better one"
    assert first_stop(known(), errors(0.6), math.nan) is None, "its size is not known yet"
    assert first_stop(known(18), errors(0.6), 100) is None, "18 trials give no 95 %"
    assert first_stop(known(18, 0.9), errors(0.6), 100) is not None
    rule = known()
    rule.learn([Finished(t.number, t.curves, t.values, feasible=False) for t in rule.finished])
    assert first_stop(rule, errors(0.6), 100) is None, "the others break a constraint"


def test_of_exchangeable_runs_no_more_than_stated_would_have_been_better():
    random = np.random.default_rng(0)

    def draw(number):
        found = errors(random.uniform(0.05, 0.5), random.uniform(0.2, 0.9))
        noisy = [max(0.0, error + random.normal(0, 0.01)) for error in found]
        curves = curves_of(rows_of(noisy))
        value = float(curves["val_accuracy"][-1])
        return Finished(number, [curves], {"val_accuracy": value, "num_params": 100})

    stopped = wrong = 0
    for _ in range(20):
        rule = Rule(OBJECTIVES, 0.9)
        rule.learn([draw(number) for number in range(30)])
        best = max(trial.values["val_accuracy"] for trial in rule.finished)
        for number in range(20):
            run = draw(number)
            for epochs in range(1, EPOCHS):
                part = {name: values[:epochs] for name, values in run.curves[0].items()}
                if rule.judge(part, {"num_params": 100}):
                    stopped += 1
                    wrong += run.values["val_accuracy"] > best
                    break
    assert stopped > 100
    assert wrong <= 0.1 * 400


def run_of(directory):
    """The higher the temperature, the worse; the sizes are few."""
    params = json.loads((directory / "proposal.json").read_text())["params"]
    found = errors(params["loss.temperature"] / 25, 0.4 + params["loss.lambda"] / 5)
    size = 100 * params["student.model.depth"]
    rows = [{"epoch": -1, "step": 0, "num_params": size}, *rows_of(found)]
    metrics, costs = {"val_accuracy": 1 - found[-1]}, {"num_params": size}
    return rows, RunRecord("completed", {}, 0, metrics, costs)


def test_a_sweep_stops_dominated_runs_and_loses_no_front(tmp_path):
    report, pool = scripted(
        tmp_path, run_of, "sweep.n_trials=40", "sweep.early_stopping=0.9", slots=3
    )
    stopped = [trial for trial in report.trials if trial.state == "pruned"]
    assert report.counts["completed"] == 40 - len(stopped)
    assert len(stopped) > 5
    assert sorted(pool.killed) == [trial.directory for trial in stopped]
    assert len(pool.started) == len(set(pool.started)) == 40, "no retry"
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder(tmp_path)}/study.db")
    best = [trial.number for trial in study.best_trials]
    for trial in stopped:
        assert trial.error.startswith("stopped after ")
        (record,) = trial.records
        told = study.trials[trial.number]
        assert told.values == [
            record.selection["expected"]["val_accuracy"],
            record.costs["num_params"],
        ]
        assert told.number not in best
        assert not (trial.directory / "stop.json").exists()
        whole = 1 - errors(
            trial.params["loss.temperature"] / 25, 0.4 + trial.params["loss.lambda"] / 5
        )[-1]  # fmt: skip
        assert any(
            other.mean("val_accuracy") >= whole and other.mean("num_params") <= told.values[1]
            for other in report.front
        )


def test_a_real_run_is_stopped_by_its_sweep(tmp_path):
    """The second run learns nothing and then hangs: only its curve can end it."""
    trouble = "student.model.trouble"
    start = ",".join(
        f"{{{trouble}: {name}, loss.temperature: {n + 1}}}"
        for n, name in enumerate(("null", "stuck"))
    )
    code, printed = sweep(
        tmp_path,
        "sweep.n_trials=2",
        "sweep.workers=1",
        "sweep.early_stopping=0.5",
        "trainer.max_epochs=6",
        "student.model._target_=sweep_probe.Probe",
        f"+{trouble}=null,stuck",
        f"sweep.start_from=[{start}]",
    )
    assert code == 0, printed
    found = records(tmp_path)
    assert [found[number]["status"] for number in range(2)] == ["completed", "pruned"]
    assert found[1]["error"].startswith("stopped after ")
    assert found[1]["costs"]["num_params"] == found[0]["costs"]["num_params"]
    assert "#1    pruned: stopped after" in printed
    left = sorted(path.name for path in (folder(tmp_path) / "trials" / "0001").iterdir())
    assert left == ["config.yaml", "log.txt", "metrics.jsonl", "proposal.json", "record.json"]
    assert processes_of(tmp_path) == []


def test_it_needs_objectives_that_are_known_before_the_end():
    with pytest.raises(ConfigError) as told:
        make_plan("sweep.early_stopping=0.95", "+sweep.objectives={latency_ms: minimize}")
    assert "sweep.early_stopping needs objectives and limits that a curve" in str(told.value)
    assert "got latency_ms" in str(told.value)
    with pytest.raises(ConfigError, match="sweep.early_stopping must be a confidence"):
        make_plan("sweep.early_stopping=2")
    assert set(CURVES) == {"val_accuracy", "val_nll"}
