"""Sweeps as Slurm jobs, on a real Slurm of one node without accounting."""

import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from sweep_commands import NOOP, ROOT, folder, records, start

UP = ROOT.parent / "shared" / "samples" / "slurm_up.sh"


@pytest.fixture
def slurm(tmp_path):
    """The configuration of a Slurm on loopback, which is stopped after the test."""
    if not shutil.which("slurmctld") or not UP.exists() or os.geteuid() != 0:
        pytest.skip("needs root, Debian's slurm-wlm and the script that starts it on loopback")
    home = tmp_path / "slurm"
    if any(port_is_taken(port) for port in (6817, 6818)):
        pytest.skip("another Slurm runs on this machine")
    done = subprocess.run(["bash", UP, home], capture_output=True, text=True, timeout=600)
    try:
        assert done.returncode == 0, done.stderr
        yield home / "slurm.conf"
    finally:
        for path in home.glob("*.pid"):
            os.kill(int(path.read_text()), signal.SIGKILL)


def port_is_taken(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow  # Slurm takes its time to start, and a second or two a job
def test_a_cancelled_job_is_noticed_and_a_sweeper_takes_up_jobs(slurm, tmp_path):
    may_end = tmp_path / "may-end"  # the jobs wait for so many files in it
    environment = {"SLURM_CONF": str(slurm), "NOOP_MEET": f"{may_end}:100"}
    overrides = ("pool=slurm", "sweep.n_trials=2", "sweep.workers=2", "sweep.max_retries=1")

    def begin():
        return start(tmp_path, *overrides, base=NOOP, environment=environment)

    def job(number):
        path = folder(tmp_path) / "trials" / f"{number:04d}" / "slurm-job"
        return path.read_text().strip() if path.exists() else None

    def starts(number):
        path = folder(tmp_path) / "trials" / f"{number:04d}" / "starts"
        return len(path.read_text().split()) if path.exists() else 0

    def wait_for(condition):
        deadline = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    first = begin()
    wait_for(lambda: starts(0) and starts(1))
    first.kill()  # its jobs go on
    first.communicate()
    kept, cancelled = job(1), job(0)
    second = begin()
    client = {**os.environ, "SLURM_CONF": str(slurm)}
    subprocess.run(["scancel", cancelled], env=client, check=True)
    wait_for(lambda: job(0) != cancelled)  # the second sweeper has noticed
    for name in range(100):
        (may_end / f"file-{name}").touch()
    printed, _ = second.communicate(timeout=600)
    assert second.returncode == 0, printed
    assert {number: record["status"] for number, record in records(tmp_path).items()} == {
        0: "completed",
        1: "completed",
    }
    assert (starts(0), starts(1)) == (2, 1)
    assert job(0) != cancelled
    assert job(1) == kept
