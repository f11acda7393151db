"""The Ray that a sweep's runs happen on: one of its own on this machine, or a cluster it joins."""

from __future__ import annotations

import atexit
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import ray

from kd_research.configuration.config import ConfigError
from kd_research.pools.local import cores, visible_gpus
from kd_research.records.outside import OutsideError

OBJECT_STORE_BYTES = 1 << 27  # of a Ray of our own, which sends next to nothing
HEAD_SECONDS = 10.0  # without its head a cluster is given up; Ray itself would end us after 60
OWN_HOST = "127.0.0.1"


def connect(address: str | None, cpus: float) -> None:
    """Join the cluster at `address`, or start a Ray of our own; does nothing where it is done.

    Args:
        address: "auto" or HEAD:PORT, from a machine of the cluster; None: of our own.
        cpus: the least that our own has.

    Raises:
        ConfigError: there is no such cluster, or this machine is not of it.
    """
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"address": address}
    if address is None:
        home = tempfile.mkdtemp(prefix="kd_research-ray-")  # short: sockets lie in it
        atexit.register(_end, home)
        options = {
            "address": "local",
            "num_cpus": max(cores(), math.ceil(cpus)),
            "num_gpus": len(visible_gpus()),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": OWN_HOST,
            "_temp_dir": home,
        }
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _unseen():
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            [
                f"pool.address={address}: {reason}; start the sweep on a machine of a running "
                "cluster (ray start --head, or --address=HEAD:6379), or type pool.address=null "
                "for this machine alone"
            ]
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray sets its own


def _end(home: str) -> None:
    ray.shutdown()
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _unseen() -> Iterator[None]:
    """Nothing of the sweeper is told to others: no usage statistics, no command line.

    Ray puts a driver's command line into its head's table of jobs, for all to read; there may be a
    password in it, as in sweep.storage=postgresql://...
    """
    own = {"RAY_USAGE_STATS_ENABLED": "0"}
    name = mock.patch("ray._private.utils.get_entrypoint_name", return_value="kd_research")
    quiet = mock.patch("ray._private.worker.listen_error_messages")
    with mock.patch.dict(os.environ, own), name, quiet:
        yield


class Head:
    """Tells whether a cluster's head lives, without asking Ray, which waits for it."""

    def __init__(self) -> None:
        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        self.address, self._seen = (host.strip("[]"), int(port)), time.monotonic()

    def is_there(self) -> bool:
        """Whether it answers now.

        Raises:
            OutsideError: it has not for ten seconds.
        """
        try:
            socket.create_connection(self.address, timeout=2).close()
        except OSError:
            if time.monotonic() - self._seen > HEAD_SECONDS:
                host, port = self.address
                raise OutsideError(
                    f"the head of the Ray cluster, {host}:{port}, is gone; start the cluster again"
                ) from None
            return False
        self._seen = time.monotonic()
        return True


def room(need: Mapping[str, float], processes: int, spread: bool) -> dict[str, int]:
    """How many runs each node of the cluster has room for, by Ray's name of the node.

    Args:
        need: resources of one rank.
        processes: ranks of a run.
        spread: whether a run's ranks may be on several nodes, so that their sum counts.
    """
    found, left = {}, 0
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        has = node["Resources"]
        ranks = min(int(has.get(name, 0) / amount + 1e-9) for name, amount in need.items())
        left = left + ranks if spread else ranks
        found[str(node["NodeID"])] = left // processes
        left %= processes
    return found
