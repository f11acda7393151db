"""The actors of one slot of a Ray cluster: one, or one a rank in a placement group."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from kd_research.pools.child import Part
from kd_research.pools.local import GRACE_SECONDS, End
from kd_research.pools.ray_files import Sent
from kd_research.pools.ray_slot import Job, Place, Slot
from kd_research.records.record import STOP_NAME

CALLS = 8  # at once, of an actor


@dataclass
class RayHandle:
    """A run: it waits for a slot, then it is there."""

    directory: Path
    action: str
    processes: int
    started: float = math.inf  # until it has a slot
    outcome: End | None = None

    def end(self) -> End | None:
        """How it ended; None until it has."""
        return self.outcome


@dataclass
class Group:
    """The actors of one slot.

    Attributes:
        actors: one a rank.
        lives: a call to each that ends only with its actor.
        asked: a call to each that says where it is; empty once it is answered.
        bundles: Ray's placement group, of several.
        places: where they are; none until all are up.
        job: the name of the run that it has.
        handle: that run.
        parts: its calls, one a node, each with the actor that it was made to.
        failed: how its first part failed.
        patience: until when the others may end by themselves.
    """

    actors: list[Any]
    lives: list[Any]
    asked: list[Any]
    bundles: Any = None
    places: list[Place] = field(default_factory=list)
    job: str = ""
    handle: RayHandle | None = None
    parts: dict[Any, Any] = field(default_factory=dict)
    failed: End | None = None
    patience: float = math.inf

    def begin(self, handle: RayHandle, job: str, files: Sequence[Sent]) -> bool:
        """Start a run, each node's ranks by the first actor there; False if one is gone.

        Args:
            handle: the run.
            job: its name.
            files: what it needs, where files travel.
        """
        self.job, self.handle, self.failed, self.patience = job, handle, None, math.inf
        handle.started = time.monotonic()
        ranks: dict[str, list[int]] = {}  # node -> those that it has
        for rank, place in enumerate(self.places[: handle.processes]):
            ranks.setdefault(place.node, []).append(rank)
        port = None
        if len(ranks) > 1:
            try:
                port = ray.get(self.actors[0].port.remote(), timeout=GRACE_SECONDS)
            except (RayActorError, GetTimeoutError):
                return False
        for own in ranks.values():
            actor, host = self.actors[own[0]], self.places[0].host
            part = Part(own[0], handle.processes, host, port) if port else None
            gpus = [gpu for rank in own for gpu in self.places[rank].gpus]
            what = Job(job, str(handle.directory), handle.action, len(own), gpus, part, files)
            self.parts[actor.run.remote(what)] = actor
        return True

    def stop(self) -> None:
        """Have its actors end the run."""
        assert self.handle is not None
        path = self.handle.directory / STOP_NAME
        files = {STOP_NAME: path.read_bytes()} if path.exists() else {}
        for actor in self.parts.values():
            actor.stop.remote(self.job, files)

    def end(self, reason: End) -> None:
        """End its actors, and with them the run that it has."""
        for actor in self.actors:
            ray.kill(actor)
        if self.bundles is not None:
            remove_placement_group(self.bundles)
        if self.handle:
            self.handle.outcome = reason
        self.handle, self.parts = None, {}


def make_group(
    need: Mapping[str, float], processes: int, spread: bool, what: Sequence[Any]
) -> Group:
    """Ask Ray for one slot's actors; it starts them when there is room.

    Args:
        need: resources of one rank.
        processes: ranks.
        spread: whether they may be on several nodes.
        what: the arguments of the actors.
    """
    options: dict[str, Any] = {"num_cpus": need.get("CPU", 0), "num_gpus": need.get("GPU", 0)}
    options["resources"] = {k: v for k, v in need.items() if k not in ("CPU", "GPU")}
    kind, bundles = ray.remote(Slot), None
    options["max_concurrency"] = CALLS
    if processes > 1:
        strategy = "PACK" if spread else "STRICT_PACK"
        bundles = placement_group([dict(need)] * processes, strategy=strategy)
    actors = []
    for index in range(processes):
        where = PlacementGroupSchedulingStrategy(bundles, index) if bundles else "SPREAD"
        actors.append(kind.options(**options, scheduling_strategy=where).remote(*what))
    lives = [actor.live.remote() for actor in actors]
    return Group(actors, lives, [actor.place.remote() for actor in actors], bundles)
