"""A PostgreSQL of a test's own, on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy


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
    """An empty database on loopback, which can be stopped and started.

    Args:
        password: of its user; None: it asks for none.
    """

    def __init__(self, password=None):
        self.programs, self.home, self.port = find_postgres(), Path(tempfile.mkdtemp()), free_port()
        self.user = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
        if self.user:
            shutil.chown(self.home, "postgres")
        make = [self.programs / "initdb", "-D", self.home / "data", "-U", "postgres", "--no-sync"]
        known, way = self.home / "password", "trust" if password is None else "scram-sha-256"
        known.write_text(f"{password}\n")
        self._call([*make, "-A", way, "--pwfile", known])
        known.unlink()
        user = "postgres" if password is None else f"postgres:{password}"
        self.url = f"postgresql+psycopg2://{user}@127.0.0.1:{self.port}/postgres"
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


@contextmanager
def running(password=None):
    """PostgreSQL, running; gone afterwards."""
    pytest.importorskip("psycopg2", reason="PostgreSQL needs psycopg2-binary")
    made = Postgres(password)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(made.home)
