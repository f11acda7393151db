"""Sweeps by the command that a user types; each is made once and looked at by several tests."""

import signal
import time

import pytest
from sweep_commands import (
    NOOP,
    TINY,
    folder,
    make_plan,
    processes_of,
    proposals,
    records,
    start,
    sweep,
)

import kd_research.sweep.run
from kd_research.configuration.config import ConfigError
from kd_research.sweep.run import UNTRACKED, run_sweep

TROUBLE = (
    "student.model._target_=sweep_probe.Probe",
    "+student.model.trouble=null,raises,non-finite",
    "sweep.start_from=["
    + ",".join(f"{{student.model.trouble: {what}}}" for what in ("raises", "non-finite", "null"))
    + "]",
)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Six trials, some of which raise and some of which are not finite."""
    output_dir = tmp_path_factory.mktemp("swept")
    code, printed = sweep(output_dir, "sweep.n_trials=6", *TROUBLE)
    assert code == 0, printed
    return output_dir, printed


def test_a_sweep_has_exactly_its_trials_and_a_front(swept):
    output_dir, printed = swept
    assert sorted(records(output_dir)) == sorted(proposals(output_dir)) == list(range(6))
    assert "trial 6 of 6" in printed
    assert (folder(output_dir) / "front.csv").read_text().count("\n") > 1
    assert processes_of(output_dir) == []


def test_a_raising_and_a_non_finite_trial_are_recorded_and_the_sweep_goes_on(swept):
    output_dir, printed = swept
    wanted = {"raises": "ArithmeticError: the student raises", "non-finite": "became non-finite"}
    seen = set()
    for number, record in records(output_dir).items():
        trouble = proposals(output_dir)[number]["student.model.trouble"]
        seen.add(trouble)
        assert record["status"] == ("completed" if trouble is None else "failed")
        assert wanted.get(trouble, "") in (record["error"] or "")
    assert seen == {None, *wanted}
    assert "failed: ArithmeticError: the student raises" in printed


def test_trials_run_side_by_side(swept):
    spans = [
        (record["provenance"]["started"], record["provenance"]["seconds"])
        for record in records(swept[0]).values()
    ]
    overlaps = [
        (one, other) for one in spans for other in spans if one[0] < other[0] < one[0] + one[1]
    ]
    assert overlaps


def _written(output_dir):
    return {path: path.stat().st_mtime_ns for path in folder(output_dir).glob("trials/*/*")}


def plan_again(output_dir, *overrides):
    return make_plan(*TINY, f"output_dir={output_dir}", "sweep.n_trials=6", *TROUBLE, *overrides)


def test_the_same_command_again_runs_nothing(swept, capsys, monkeypatch):
    tracked = []
    monkeypatch.setattr(kd_research.sweep.run, "track_sweep", lambda *given: tracked.append(given))
    output_dir, _ = swept
    before = _written(output_dir)
    run_sweep(plan_again(output_dir))
    assert "all 6 trials are done" in capsys.readouterr().out
    assert _written(output_dir) == before
    assert tracked == []
    (folder(output_dir) / UNTRACKED).touch()  # as a sweep that was killed before it was shown
    run_sweep(plan_again(output_dir))
    run_sweep(plan_again(output_dir))
    assert len(tracked) == 1


def test_another_space_does_not_continue_the_study(swept):
    with pytest.raises(ConfigError) as caught:
        run_sweep(plan_again(swept[0], "loss.temperature=interval(1,9)"))
    message = str(caught.value)
    assert "sweep.space.loss.temperature: interval(1,20) there, interval(1,9) now" in message
    assert "sweep.name=mine" in message


def test_a_killed_sweep_is_finished_by_the_same_command(tmp_path):
    process = start(tmp_path, "sweep.n_trials=6")
    deadline = time.monotonic() + 600
    while not records(tmp_path):  # early: the others must not be done before it is killed
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(records(tmp_path)) < 6
    code, printed = sweep(tmp_path, "sweep.n_trials=6")
    assert code == 0, printed
    (last,) = [line for line in printed.splitlines() if line.startswith("trial 6 of 6")]
    best = max(record["metrics"]["val_accuracy"] for record in records(tmp_path).values())
    assert f"best val_accuracy {best:.4f}" in last, "of all trials, those before the kill too"
    # a number that was drawn in the very moment of the kill, before its proposal, stays unused
    assert sorted(records(tmp_path)) == sorted(proposals(tmp_path))
    assert len(records(tmp_path)) == 6
    assert all(record["status"] == "completed" for record in records(tmp_path).values())
    temperatures = [params["loss.temperature"] for params in proposals(tmp_path).values()]
    assert len(set(temperatures)) == len(temperatures) == 6
    assert processes_of(tmp_path) == []


def test_a_sweep_of_failures_ends_as_one(tmp_path):
    overrides = ("sweep.n_trials=2", "sweep.trial_timeout=1e-6")
    environment = {"NOOP_HOLD": str(tmp_path / "never"), "NOOP_SECONDS": "600"}
    code, printed = sweep(tmp_path, *overrides, base=NOOP, environment=environment)
    assert code != 0, printed
    assert printed.strip().splitlines()[-1].startswith("no trial was completed; the logs in ")
    assert {record["status"] for record in records(tmp_path).values()} == {"failed"}
