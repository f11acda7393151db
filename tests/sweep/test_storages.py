"""Sweepers that share a study through a server, as several machines do."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from sweep_commands import NOOP, PATHS, records, start

SERVE = """
import sys
from optuna.storages import RDBStorage, run_grpc_proxy_server
storage = RDBStorage(f"sqlite:///{sys.argv[1]}")
run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, process):
    deadline = time.monotonic() + 600
    while True:
        assert process.poll() is None, process.communicate()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
    command = [sys.executable, "-W", "ignore", "-c", SERVE, str(database), str(port)]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, server)
        ran = sweep_together(f"grpc://127.0.0.1:{port}", [tmp_path, tmp_path], 8)
    finally:
        server.kill()
        server.wait()
    assert min(ran) > 0
    assert sorted(records(tmp_path)) == sorted(set(records(tmp_path)))
    assert len(records(tmp_path)) == 8
    check_study(f"sqlite:///{database}", 8)


def find_postgres():
    """The folder of Debian's programs, installed if that is possible."""

    def found():
        return sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)

    if not found() and shutil.which("apt-get") and os.geteuid() == 0:
        command = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=100, check=False)
    if not found():
        pytest.skip("no PostgreSQL: there is no /usr/lib/postgresql, and it cannot be installed")
    return found()[0]


def wait_until_it_answers(url):
    deadline = time.monotonic() + 600
    while True:
        try:
            sqlalchemy.create_engine(url).connect().close()
        except sqlalchemy.exc.OperationalError:  # it is starting up
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


class Postgres:
    """An empty database on loopback, which can be stopped and started."""

    def __init__(self):
        self.programs, self.home, self.port = find_postgres(), Path(tempfile.mkdtemp()), free_port()
        self.user = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
        if self.user:
            shutil.chown(self.home, "postgres")
        make = [self.programs / "initdb", "-D", self.home / "data", "-A", "trust", "-U", "postgres"]
        self._call([*make, "--no-sync"])
        self.url = f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/postgres"
        self.server = None

    def _call(self, command):
        subprocess.run(command, check=True, capture_output=True, cwd=self.home, **self.user)

    def start(self):
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-c", "unix_socket_directories="]
        command = [self.programs / "postgres", "-D", self.home / "data", *options]
        self.server = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, cwd=self.home, **self.user
        )
        wait_for_port(self.port, self.server)
        wait_until_it_answers(self.url)

    def stop(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)  # does not wait for its clients to leave
            self.server.wait(timeout=600)
            self.server = None


@pytest.fixture
def database():
    """PostgreSQL, running; gone after the test."""
    pytest.importorskip("psycopg2", reason="PostgreSQL needs psycopg2-binary")
    made = Postgres()
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.home)


@pytest.fixture
def postgres(database):
    """Its URL."""
    return database.url


def test_three_sweepers_on_postgresql_without_a_common_disk(postgres, tmp_path):
    machines = [tmp_path / name for name in "abc"]
    ran = sweep_together(postgres, machines, 12)
    assert sum(ran) == 12
    assert min(ran) > 0
    numbers = [number for at in machines for number in records(at)]
    assert len(numbers) == len(set(numbers)) == 12
    check_study(postgres, 12)


def test_a_database_that_is_away_in_mid_sweep_costs_no_trial(database, tmp_path):
    overrides = (f"sweep.storage={database.url}", "sweep.n_trials=8", "sweep.workers=2")
    log = tmp_path / "printed"
    with log.open("w") as stream:
        process = start(
            tmp_path / "o", *overrides, base=NOOP, environment={"NOOP_SECONDS": "1"}, stdout=stream
        )
        while len(records(tmp_path / "o")) < 2:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        database.stop()
        while "the study's storage does not answer" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        # Those in flight run on to their end; it may have come before the outage was noticed.
        while len(records(tmp_path / "o")) < len(list((tmp_path / "o").rglob("trials/*/starts"))):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        database.start()
        assert process.wait() == 0, log.read_text()
    printed = log.read_text()
    assert "Traceback" not in printed
    assert "retry" not in printed
    assert len(records(tmp_path / "o")) == 8
    check_study(database.url, 8)
