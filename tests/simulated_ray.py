"""A simulated Ray cluster on loopback, and sweeps on it."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayError
from sweep_commands import PATHS, folder, make_plan, records

from kd_research.configuration.config import ConfigError
from kd_research.pools import ray_cluster
from kd_research.sweep import run as sweeper

NOOP = ["pool=ray", "pool.program=ray_trial", "tracking=disabled", "sampler=random"]
NOOP += ["sweep.name=s", "sweep.baseline=false", "pool.gpus=0"]
# Loopback; for 127.0.0.1 Ray takes the address that others reach the machine at.
HERE = {"num_cpus": 1, "node_ip_address": "127.0.0.2", "include_log_monitor": False}

SWEEP_SECONDS = 400  # for a sweep of runs that do nothing, on a busy machine


def wait_for(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


class Nodes:
    """The cluster, and what may happen to its nodes."""

    def __init__(self, home):
        self.home = home
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={**HERE, "num_cpus": 0, "include_dashboard": False},
        )
        self.nodes = {name: self.add(name) for name in ("a", "b")}

    def answers(self, seconds=200):
        """Whether its nodes run anything: Ray cannot work on every machine."""
        try:
            ray_cluster.connect(self.cluster.address, 1)
            task = ray.remote(num_cpus=1)(lambda: ray.get_runtime_context().get_node_id())
            ray.get([task.remote() for _ in range(4)], timeout=seconds)
        except (ConfigError, RayError, OSError):
            return False
        return True

    def add(self, name, temporary=None, **resources):
        temporary = temporary or self.home / f"node-{name}"
        temporary.mkdir(exist_ok=True)
        variables = {"KD_TEST_NODE": name, "TMPDIR": str(temporary)}
        variables |= {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}  # as if srun started it
        return self.cluster.add_node(**{**HERE, **resources}, env_vars=variables)

    def add_blind(self, hidden):
        """A node that does not see a folder; None where that takes more rights than there are."""
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
        command += [f"--address={self.cluster.address}", "--node-ip-address=127.0.0.2"]
        command += [
            "--num-cpus=1",
            '--resources={"blind": 1}',
            f"--object-store-memory={1 << 27}",
            "--block",
        ]
        hide = 'mount -t tmpfs none "$0" && exec "$@"'
        home = self.home / "blind"
        home.mkdir()
        variables = {"KD_TEST_NODE": "blind", "TMPDIR": str(home), "RAY_TMPDIR": f"{self.home}/r"}
        variables |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": PATHS}
        alone = ["unshare", "--mount"]
        if not shutil.which("unshare") or subprocess.run([*alone, "true"]).returncode:
            return None
        return subprocess.Popen(
            [*alone, "sh", "-c", hide, str(hidden), *command],
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, name):
        """kill -9 of a raylet, as if the machine had gone."""
        node = self.nodes.pop(name)
        (process,) = [info.process for info in node.all_processes["raylet"]]
        process.kill()
        process.wait()  # else it is a zombie, which its workers take for alive
        self.cluster.remove_node(node, allow_graceful=False)

    def remove(self, node):
        """Have a node leave, and wait until the others know."""
        self.cluster.remove_node(node)
        name = node.plasma_store_socket_name
        wait_for(
            lambda: name not in [n["ObjectStoreSocketName"] for n in ray.nodes() if n["Alive"]]
        )


def run(output_dir, base, *overrides, meanwhile=None):
    """A sweep in this process, in a thread: nodes can be added by the first one alone.

    Args:
        output_dir: where.
        base: overrides, and more.
        overrides: more.
        meanwhile: what else happens; the sweep has to end also where this fails.
    """
    failed = []

    def go():
        try:
            sweeper.run_sweep(make_plan(f"output_dir={output_dir}", *base, *overrides), quiet=True)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go, daemon=True)  # a sweep that hangs fails its test alone
    thread.start()
    try:
        if meanwhile:
            meanwhile()
    finally:
        thread.join(SWEEP_SECONDS)
    assert not thread.is_alive(), "the sweep does not end"
    if failed:
        raise failed[0]


def touched(go, meanwhile):
    """Then `go` is there, whatever has happened."""

    def both():
        try:
            meanwhile()
        finally:
            go.touch()

    return both


def facts(output_dir, number):
    """What the starts of a trial said of where they were."""
    log = (folder(output_dir) / "trials" / f"{number:04d}" / "log.txt").read_text()
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def statuses(output_dir):
    return {number: record["status"] for number, record in records(output_dir).items()}


def slots_of(cluster):
    """Process ids of the actors that live on the simulated nodes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Slot" in (entry / "cmdline").read_bytes():
                environment = (entry / "environ").read_bytes().decode(errors="replace")
                if str(cluster.home) in environment:
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def num_starts(output_dir):
    return sum(len(path.read_text().split()) for path in folder(output_dir).glob("trials/*/starts"))
