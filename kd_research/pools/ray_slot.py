"""A slot of a Ray cluster: an actor that forks a child a run, on the node where Ray has put it.

The actor stays light; what has imported torch is the server that it forks from, the local pool's.
A crash, a leak or a segmentation fault costs the child alone. When the actor goes, however it
goes, so do its server and its child.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path

import ray

from kd_research.configuration import ranks
from kd_research.pools.child import Part, free_port
from kd_research.pools.local import End, LocalHandle, LocalPool, visible_gpus
from kd_research.pools.ray_files import Mirror, Sent
from kd_research.records.outside import NO_ROOM
from kd_research.records.record import METRICS_NAME, write_text

NEWS_SECONDS = 0.5  # between two looks at a metrics.jsonl that travels


@dataclass(frozen=True)
class Place:
    """Where an actor is.

    Attributes:
        node: Ray's name of the node.
        host: its address.
        gpus: those that Ray has given the actor, as CUDA_VISIBLE_DEVICES names them.
        travels: whether a run's files have to come here.
    """

    node: str
    host: str
    gpus: tuple[str, ...]
    travels: bool


@dataclass(frozen=True)
class Job:
    """A run for an actor.

    Attributes:
        name: that no other job has.
        directory: its folder, on the sweeper's machine.
        action: a function of the program.
        processes: ranks on this node.
        gpus: of these ranks.
        part: of all ranks, where other nodes have the rest.
        files: what it needs, where the node does not see the folder.
    """

    name: str
    directory: str
    action: str
    processes: int
    gpus: Sequence[str]
    part: Part | None = None
    files: Sequence[Sent] = ()


@dataclass(frozen=True)
class News:
    """What an actor tells of its run.

    Attributes:
        end: how it ended; None while it runs.
        rows: of its metrics.jsonl, since the last news.
        files: of its folder, at the end.
        shared: of the output folder, at the end.
        refusal: why the node cannot run it, as where its disk is full; it has to go elsewhere.
    """

    end: End | None
    rows: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    shared: dict[str, bytes] = field(default_factory=dict)
    refusal: str | None = None


class Slot:
    """One run at a time. Its methods are called at once, each in a thread of its own.

    Args:
        program: the module whose `main([directory])` is a run.
        paths: where the sweeper's Python finds modules.
        marker: a file that the sweeper has written into the output folder.
        files: whether files travel: True, False, or None where the marker is not seen.
        token: of the sweeper's pool.
    """

    def __init__(
        self, program: str, paths: Sequence[str], marker: str, files: bool | None, token: str
    ):
        sys.path.extend(path for path in paths if path not in sys.path)
        ranks.clear()  # of srun, where that has started the node
        self.pool = LocalPool(1, program=program)
        self.pool.warm()
        travels = not Path(marker).exists() if files is None else files
        self._mirror = Mirror(token, Path(marker).parent) if travels else None
        self._stopped: set[str] = set()
        self._ear, self._mouth = os.pipe()
        self._job: Job | None = None
        self._handle: LocalHandle | None = None
        self._known = 0  # bytes of metrics.jsonl that were sent

    def place(self) -> Place:
        """Where this is; told once it is ready."""
        node = ray.get_runtime_context().get_node_id()
        gpus = tuple(visible_gpus())
        return Place(node, ray.util.get_node_ip_address(), gpus, self._mirror is not None)

    def leave(self) -> None:
        """Take the sweeper's files off the node; there will be no other run."""
        if self._mirror:
            self._mirror.leave()

    def live(self) -> None:
        """Never returns: that it fails tells that the actor has gone."""
        threading.Event().wait()

    def port(self) -> int:
        """A free one, for rank 0."""
        return free_port(ray.util.get_node_ip_address())

    def stop(self, name: str, files: dict[str, bytes]) -> None:
        """End a job, now or when it comes, and what it has started.

        Args:
            name: of the job.
            files: to write into the run's folder before.
        """
        if self._mirror and self._job and self._handle and self._job.name == name:
            for file, content in files.items():
                write_text(self._handle.directory / file, content.decode())
        self._stopped.add(name)
        os.write(self._mouth, b".")

    def run(self, job: Job) -> News:
        """Start a job; what is new of it first."""
        self._job, self._known = job, 0
        try:
            directory = Path(job.directory)
            if self._mirror:
                directory = self._mirror.receive(job.directory, job.files)
                if self._mirror.is_full():
                    return self._no_room()
                metrics = directory / METRICS_NAME
                self._known = metrics.stat().st_size if metrics.exists() else 0
            variables = {"CUDA_VISIBLE_DEVICES": ",".join(job.gpus)}
            self._handle = self.pool.submit(
                directory, job.action, job.processes, variables, job.part
            )
        except OSError as error:
            if error.errno not in NO_ROOM or not self._mirror:
                raise
            return self._no_room()
        return self.go_on()

    def go_on(self) -> News:
        """The next news of the job: that it has ended, or rows of its metrics."""
        assert self._job is not None
        assert self._handle is not None
        handle, seconds = self._handle, NEWS_SECONDS if self._mirror else None
        while self._job.name not in self._stopped:
            ready = connection.wait([handle.process.sentinel, self._ear], seconds)
            if self._ear in ready:
                os.read(self._ear, 4096)
            elif self.pool.wait([handle], 0):
                end = handle.end()
                assert end is not None
                return self._ended(end)
            elif rows := self._rows(handle.directory):
                return News(None, rows)
        self.pool.kill([handle])
        return self._ended(End("it was stopped", outside=True))

    def _rows(self, directory: Path) -> bytes:
        """The whole lines of metrics.jsonl that are new."""
        path = directory / METRICS_NAME
        if not self._mirror or not path.exists():
            return b""
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size < self._known:
                return b""  # the run has taken back what it had not saved; the end brings all
            stream.seek(self._known)
            rows = stream.read()
        rows = rows[: rows.rfind(b"\n") + 1]
        self._known += len(rows)
        return rows

    def _ended(self, end: End) -> News:
        assert self._job is not None
        assert self._handle is not None
        if not self._mirror:
            return News(end)
        if end.put_back or (end.failed and self._mirror.is_full()):
            return self._no_room(self._mirror.last_line(self._handle.directory))
        files = self._mirror.folder_files(self._handle.directory)
        shared = self._mirror.shared_files(outputs=self._job.action == "prepare")
        return News(end, files=files, shared=shared)

    def _no_room(self, reason: str = "") -> News:
        assert self._job is not None
        assert self._mirror is not None
        self._mirror.forget(self._job.directory)
        reason = reason or "no room on its disk"
        return News(End(reason, outside=True), refusal=f"{os.uname().nodename}: {reason}")
