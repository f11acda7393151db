"""Sweeps by Hydra's launchers, with trials that train nothing."""

import pytest
from sweep_commands import NOOP, PATHS, make_plan, records
from test_local import check_whole, starts

from kd_research.configuration.config import ConfigError
from kd_research.pools import hydra_launcher as launchers
from kd_research.sweep import run as sweeper
from kd_research.sweep.plan import Plan


def run(output_dir, *overrides):
    """A sweep in this process, in batches of two, by Hydra's basic launcher."""
    fixed = [f"output_dir={output_dir}", "pool=launcher", "sweep.workers=2", "sweep.n_trials=4"]
    sweeper.run_sweep(make_plan(*NOOP, *fixed, *overrides))


def test_a_job_that_is_lost_or_hangs_costs_its_trial_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    monkeypatch.setenv("NOOP_TROUBLE", "killed once,exits,hangs")
    monkeypatch.setattr(launchers, "GRACE_SECONDS", 0.5)  # what hangs does not hear SIGTERM
    ends = {
        1: ("completed", None, 2),
        2: ("failed", "its process ended with exit code 3; see log.txt", 1),
        3: ("failed", "it ran longer than sweep.trial_timeout=20 seconds", 1),
    }
    run(tmp_path, "sweep.trial_timeout=20")
    found = records(tmp_path)
    for number, (status, error, num_starts) in ends.items():
        assert (found[number]["status"], found[number]["error"]) == (status, error)
        assert len(starts(tmp_path, number)) == num_starts
    assert found[0]["status"] == "completed"
    check_whole(tmp_path, 4)
    run(tmp_path)  # nothing is left
    check_whole(tmp_path, 4)


def test_a_launcher_that_breaks_costs_a_batch_one_try(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    whole, calls = launchers.LauncherPool._launcher, []

    class Breaks:
        """As joblib's does when one of its workers is killed."""

        def launch(self, job_overrides, initial_job_idx):
            raise OSError("a worker is gone")

    def launcher(pool, action):
        calls.append(action)
        return Breaks() if len(calls) == 2 else whole(pool, action)

    monkeypatch.setattr(launchers.LauncherPool, "_launcher", launcher)
    run(tmp_path)
    assert calls == ["prepare", "main", "main", "main"]
    assert all(record["status"] == "completed" for record in records(tmp_path).values())
    check_whole(tmp_path, 4)


def test_a_launcher_without_the_pool_for_it_is_refused(tmp_path):
    plan = make_plan(f"output_dir={tmp_path}")
    plan.composition.master.hydra.runtime.choices["hydra/launcher"] = "joblib"
    with pytest.raises(ConfigError, match="is not asked for runs; add pool=launcher"):
        Plan(plan.composition.loader, plan.composition.master, [])
