"""Sweepers that share a study through a server, as several machines do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from postgres import free_port, running, wait_for_port
from sweep_commands import NOOP, folder, records, start, sweep
from warm import Command


def sweep_together(storage, output_dirs, total):
    """A sweeper per folder, all at once; how many trials each of them told."""
    overrides = (f"sweep.storage={storage}", f"sweep.n_trials={total}", "sweep.workers=1")
    met = output_dirs[0] / "met"  # no trial is done before every sweeper has one
    environment = {"NOOP_SECONDS": "0.1", "NOOP_MEET": f"{met}:{len(output_dirs)}"}
    processes = [start(at, *overrides, base=NOOP, environment=environment) for at in output_dirs]
    printed = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return [sum(line.startswith("trial ") for line in text.splitlines()) for text in printed]


def check_study(storage, total):
    study = optuna.load_study(study_name="s", storage=storage)
    counted = [trial for trial in study.trials if "discarded" not in trial.user_attrs]
    assert [trial.state.name for trial in counted] == ["COMPLETE"] * total
    assert len({tuple(trial.params.values()) for trial in counted}) == total


def test_two_sweepers_through_optunas_proxy(tmp_path):
    pytest.importorskip("grpc", reason="Optuna's proxy needs grpcio")
    port, database = free_port(), tmp_path / "served.db"
    command = [sys.executable, "-m", "serve_storage", str(database), str(port)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    server = Command(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, server)
        ran = sweep_together(f"grpc://127.0.0.1:{port}", [tmp_path, tmp_path], 4)
    finally:
        server.kill()
        server.wait()
    assert min(ran) > 0
    assert sorted(records(tmp_path)) == sorted(set(records(tmp_path)))
    assert len(records(tmp_path)) == 4
    check_study(f"sqlite:///{database}", 4)


@pytest.fixture(scope="module")
def server():
    """PostgreSQL, running."""
    with running() as made:
        yield made


@pytest.fixture
def postgres(server):
    """The URL of an empty database of it."""
    if server.server is None:
        server.start()
    engine = sqlalchemy.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        count = connection.scalar(sqlalchemy.text("select count(*) from pg_database"))
        connection.execute(sqlalchemy.text(f"create database test_{count}"))
    engine.dispose()
    return f"{server.url.rpartition('/')[0]}/test_{count}"


def test_three_sweepers_on_postgresql_without_a_common_disk(postgres, tmp_path):
    machines = [tmp_path / name for name in "abc"]
    ran = sweep_together(postgres, machines, 6)
    assert sum(ran) == 6
    assert min(ran) > 0
    numbers = [number for at in machines for number in records(at)]
    assert len(numbers) == len(set(numbers)) == 6
    check_study(postgres, 6)


def test_a_database_that_is_away_in_mid_sweep_costs_no_trial(server, postgres, tmp_path):
    overrides = (f"sweep.storage={postgres}", "sweep.n_trials=8", "sweep.workers=2")
    log, away = tmp_path / "printed", tmp_path / "away"
    with log.open("w") as stream:
        process = start(
            tmp_path / "o",
            *overrides,
            base=NOOP,
            environment={"NOOP_HOLD": str(away)},
            stdout=stream,
        )
        while len(records(tmp_path / "o")) < 2:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        server.stop()
        away.touch()
        while "the study's storage does not answer" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        # Those in flight run on to their end; it may have come before the outage was noticed.
        while len(records(tmp_path / "o")) < len(list((tmp_path / "o").rglob("trials/*/starts"))):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        server.start()
        assert process.wait() == 0, log.read_text()
    printed = log.read_text()
    assert "Traceback" not in printed
    assert "retry" not in printed
    assert len(records(tmp_path / "o")) == 8
    check_study(postgres, 8)


def test_a_study_that_a_server_lost_is_rebuilt_there(postgres, tmp_path):
    """And not where the server still has it: two studies of one name cannot be."""
    overrides = (f"sweep.storage={postgres}", "sweep.workers=1")
    assert sweep(tmp_path, *overrides, "sweep.n_trials=3", base=NOOP)[0] == 0
    before = optuna.load_study(study_name="s", storage=postgres).trials
    code, printed = sweep(tmp_path, *overrides, "sweep.rebuild=true", base=NOOP)
    assert code == 1
    assert "sweep.rebuild=true needs an empty study, and s has trials in its storage" in printed
    optuna.delete_study(study_name="s", storage=postgres)
    code, printed = sweep(tmp_path, *overrides, "sweep.n_trials=4", base=NOOP)
    assert code == 1
    assert "type sweep.rebuild=true" in printed
    started = {path: path.read_text() for path in folder(tmp_path).glob("trials/*/starts")}
    overrides += ("sweep.n_trials=4", "sweep.rebuild=true")
    code, printed = sweep(tmp_path, *overrides, base=NOOP)
    assert code == 0, printed
    assert "study rebuilt: 3 trials, 3 of them finished" in printed
    check_study(postgres, 4)
    after = optuna.load_study(study_name="s", storage=postgres).trials
    told = [
        [(trial.number, trial.params, trial.values) for trial in those] for those in (before, after)
    ]
    assert told[1][:3] == told[0]
    assert {path: path.read_text() for path in started} == started, "their runs were not made again"
