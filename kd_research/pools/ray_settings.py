"""`pool=ray`: its settings are checked, all at once, before Ray is asked for anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kd_research.configuration.values import is_number

if TYPE_CHECKING:
    from kd_research.pools.ray_pool import RayPool

TARGET = "kd_research.pools.ray_settings.open_pool"


def open_pool(**settings: Any) -> RayPool:
    """The pool, of settings that have no problems; imports Ray.

    Raises:
        ConfigError: there is no such cluster.
    """
    from kd_research.pools.ray_pool import RayPool  # brings Ray

    return RayPool(**settings)


def problems(settings: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the settings, a line each."""
    if find_spec("ray") is None:
        yield "pool=ray needs Ray; install kd_research[ray], or try pool=local"
    address = settings.get("address")
    if address not in (None, "auto") and not re.fullmatch(r"[^/:\s]+:\d+", str(address)):
        yield (
            f"pool.address must be null (a Ray of its own), auto or HEAD:PORT, got {address}; on a "
            "machine of the cluster try pool.address=auto"
        )
    cpus, gpus = settings.get("cpus", 1), settings.get("gpus")
    resources = settings.get("resources") or {}
    if not (is_number(cpus) and cpus >= 0):
        yield f"pool.cpus must be a number >= 0, got {cpus!r}; try pool.cpus=1"
    if gpus is not None and not (is_number(gpus) and (0 <= gpus <= 1 or gpus in range(2, 99))):
        yield (
            f"pool.gpus must be null, a share of one GPU or a whole number of them, got {gpus!r}; "
            "try pool.gpus=0.5"
        )
    for name, amount in resources.items():
        if not is_number(amount, above=0):
            yield f"pool.resources.{name} must be a number > 0, got {amount!r}"
    if cpus == 0 and gpus in (None, 0) and not resources:
        yield "a run that needs no CPU, GPU or other resource has no slot; try pool.cpus=0.5"
    most = settings.get("max_workers")
    if most is not None and not (isinstance(most, int) and most > 0):
        yield f"pool.max_workers must be a whole number >= 1, or null, got {most!r}"
    files = settings.get("files")
    if files not in (None, "common", "ray"):
        yield f"pool.files must be common, ray or null, got {files!r}; try pool.files=null"
