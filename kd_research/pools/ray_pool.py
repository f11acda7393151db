"""Runs on a Ray cluster: `pool=ray`. One warm actor a slot, a forked child a run, no barrier.

Slots follow the cluster: a node that comes brings some, a node that goes takes them along, and the
runs that were there are tried again elsewhere. A run of several ranks has an actor for each, in
one placement group; the ranks of a node are forked by its first actor.
"""

from __future__ import annotations

import math
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from kd_research.pools.child import SETTLE_SECONDS, conclude_parts
from kd_research.pools.local import GRACE_SECONDS, End
from kd_research.pools.ray_cluster import Head, connect, room
from kd_research.pools.ray_files import Outbox, take_files, take_rows
from kd_research.pools.ray_group import Group, RayHandle, make_group
from kd_research.pools.ray_slot import News
from kd_research.records.outside import OutsideError

LOOK_SECONDS = 1.0  # between two looks at the cluster
REFUSED_SECONDS = 60.0  # for which a node that cannot run anything gets nothing
LOST = "its actor, or the node that it was on, is gone"


class RayPool:
    """Actors of a Ray cluster.

    Args:
        slots: runs at once; None: what the cluster has room for, as its nodes come and go.
        devices_per_trial: ranks of a run.
        address: "auto" or HEAD:PORT of a cluster; None: a Ray of its own on this machine.
        cpus: of a rank.
        gpus: of a rank, or a share of one, as 0.25; None: one where the cluster has any.
        resources: more of Ray's, as {tpu: 1}.
        max_workers: so many slots at most are asked of a cluster that grows with what waits.
        files: "common", "ray", or None: by Ray where a node does not see the output folder.
        output_dir: where all that a sweep writes is.
        program: the module whose `main([directory])` is a run.

    Raises:
        ConfigError: there is no such cluster, or it has nothing of what a run needs.
    """

    def __init__(
        self,
        slots: int | None = None,
        devices_per_trial: int = 1,
        address: str | None = None,
        cpus: float = 1,
        gpus: float | None = None,
        resources: Mapping[str, float] | None = None,
        max_workers: int | None = None,
        files: str | None = None,
        output_dir: str = "outputs",
        program: str = "kd_research.trial.run",
    ):
        self.program, self.processes, self.wanted = program, devices_per_trial, slots
        self.max_workers, self.files = max_workers, files
        connect(address, cpus * devices_per_trial * (slots or 1))
        if gpus is None:
            gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
        need = {"CPU": cpus, "GPU": gpus, **(resources or {})}
        self.need = {name: amount for name, amount in need.items() if amount}
        # Files that only one node has keep the ranks together.
        self.spread = self.processes > 1 and files != "ray"
        self._head, self._groups, self._queue = Head(), list[Group](), list[RayHandle]()
        self._outbox = Outbox(Path(output_dir).absolute())
        self._token, self._jobs = uuid.uuid4().hex[:12], 0
        self._marker = self._outbox.output_dir / f".ray-{self._token}"
        self._marker.parent.mkdir(parents=True, exist_ok=True)
        self._marker.touch()
        self._refused: dict[str, float] = {}  # node -> until when
        self._refusal = ""
        self._next_look, self._room = 0.0, 0
        self._look()

    @property
    def slots(self) -> int:
        """Runs at once, now."""
        self._look()
        ready = sum(bool(group.places) for group in self._groups)
        return min(len(self._groups), max(self._room, ready))

    def submit(self, directory: Path, action: str = "main", processes: int = 1) -> RayHandle:
        """Have the next free slot run the folder."""
        handle = RayHandle(directory, action, processes)
        self._queue.append(handle)
        self._dispatch()
        return handle

    def wait(self, handles: Sequence[RayHandle], seconds: float) -> list[RayHandle]:
        """The handles that have ended, after at least one has or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while True:
            self._look()
            self._dispatch()
            self._hear(max(0.0, min(deadline - time.monotonic(), LOOK_SECONDS)))
            ended = [handle for handle in handles if handle.outcome]
            if ended or time.monotonic() >= deadline:
                self._dispatch()
                return ended

    def kill(self, handles: Sequence[RayHandle]) -> None:
        """End them and all that they started: asked first, then with their actors."""
        gone = set(map(id, handles))
        self._queue = [handle for handle in self._queue if id(handle) not in gone]
        groups = [group for group in self._groups if id(group.handle) in gone]
        for group in groups:
            group.stop()
        deadline = time.monotonic() + GRACE_SECONDS + LOOK_SECONDS
        try:
            while any(group.handle for group in groups) and time.monotonic() < deadline:
                self._hear(LOOK_SECONDS / 10)
        finally:
            for group in groups:
                if group.handle:
                    self._drop(group)

    def close(self) -> None:
        """Give the cluster its actors back, and its nodes the room that files took."""
        travel = [group for group in self._groups if group.places and group.places[0].travels]
        left = [actor.leave.remote() for group in travel for actor in group.actors]
        if left:
            ray.wait(left, num_returns=len(left), timeout=GRACE_SECONDS)
        for group in list(self._groups):
            self._drop(group)
        self._marker.unlink(missing_ok=True)

    def _look(self) -> None:
        """Follow the cluster, once a second: as many groups of actors as there is room for."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        if not self._head.is_there():
            return
        nodes, now = room(self.need, self.processes, self.spread), time.monotonic()
        refused = {node for node, until in self._refused.items() if until > now}
        if refused and not any(nodes[node] for node in nodes if node not in refused):
            raise OutsideError(f"no node can run anything; the last one said: {self._refusal}")
        self._room = sum(nodes.values())
        wanted = self._room if self.wanted is None else self.wanted
        busy = sum(group.handle is not None for group in self._groups)
        if self.max_workers is not None:
            wanted = min(self.max_workers, max(wanted, 2 * busy))
        for group in [group for group in self._groups if not group.places]:
            if len(self._groups) > wanted:
                self._drop(group)  # a node that it could have come to is gone
        while len(self._groups) < wanted:
            self._groups.append(self._make())

    def _make(self) -> Group:
        travels = None if self.files is None else self.files == "ray"
        paths = [os.path.abspath(path) for path in sys.path]
        what = (self.program, paths, str(self._marker), travels, self._token)
        return make_group(self.need, self.processes, self.spread, what)

    def _drop(self, group: Group) -> None:
        """End a group's actors; the run that it had is tried again."""
        if group in self._groups:
            self._groups.remove(group)
        group.end(End(LOST, outside=True))

    def _dispatch(self) -> None:
        """Give waiting runs to free slots."""
        now = time.monotonic()
        for group in self._groups:
            if not self._queue:
                return
            free = group.places and group.handle is None
            if free and all(self._refused.get(place.node, 0) < now for place in group.places):
                self._begin(group, self._queue.pop(0))

    def _begin(self, group: Group, handle: RayHandle) -> None:
        self._jobs += 1
        files = self._outbox.files(handle.directory) if group.places[0].travels else []
        if not group.begin(handle, f"{self._token}-{self._jobs}", files):
            self._drop(group)

    def _hear(self, seconds: float) -> None:
        """Take in what actors say, after one has said something or `seconds` have passed."""
        calls: dict[Any, Group] = {}
        for group in self._groups:
            calls |= dict.fromkeys([*group.parts, *group.lives, *group.asked], group)
        if not calls:
            time.sleep(seconds)
            return
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in ready:
            group = calls[call]
            if group not in self._groups:
                continue  # dropped since
            try:
                said = ray.get(call)
            except RayActorError:
                self._drop(group)
            except RayError as error:  # the actor's own fault, or its machine's
                self._part_ended(group, call, End(f"its actor failed: {error}", outside=True))
            else:
                if isinstance(said, News):
                    self._told(group, call, said)
                elif not group.places:
                    self._up(group)
        for group in self._groups:
            if group.parts and time.monotonic() > group.patience:
                group.stop()
                group.patience = math.inf

    def _up(self, group: Group) -> None:
        """All of a group's actors may be up by now."""
        done, _ = ray.wait(group.asked, num_returns=len(group.asked), timeout=0)
        if len(done) == len(group.asked):
            group.places, group.asked = ray.get(group.asked), []
            apart = len({place.node for place in group.places}) > 1
            if apart and any(place.travels for place in group.places):
                self.spread = False  # what one rank writes the others could not read
                self._drop(group)

    def _told(self, group: Group, call: Any, news: News) -> None:
        handle = group.handle
        assert handle is not None
        take_rows(handle.directory, news.rows)
        if news.end is None:
            actor = group.parts.pop(call)
            group.parts[actor.go_on.remote()] = actor
            return
        if news.refusal:
            self._refused[group.places[0].node] = time.monotonic() + REFUSED_SECONDS
            self._refusal = news.refusal
            self._queue.insert(0, handle)  # not its fault: no try is counted
            handle.started, group.handle, group.parts = math.inf, None, {}
            return
        take_files(handle.directory, news.files, replace=True)
        take_files(self._outbox.output_dir, news.shared, replace=False)
        self._part_ended(group, call, news.end)

    def _part_ended(self, group: Group, call: Any, end: End) -> None:
        """A node's ranks have ended: so has the run with the last, as its first failure says."""
        group.parts.pop(call, None)
        if end.failed and group.failed is None:
            group.failed, group.patience = end, time.monotonic() + SETTLE_SECONDS
        if not group.parts and group.handle:
            if group.failed and len({place.node for place in group.places}) > 1:
                conclude_parts(group.handle.directory, group.failed.outside)
            group.handle.outcome, group.handle = group.failed or end, None
