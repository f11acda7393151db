"""Costs that depend on the architecture and the machine alone: measured once, by whoever is first.

`outputs/costs/KEY.json` has the costs of a model, under a content hash of how it is made, its
code, its layers, its input, the machine, the device, the threads and how it is measured. The
weights are not in it. So trials of one architecture have one latency, and a sweep over a loss
measures once. A record says whether its own run has measured (`provenance.measurement.shared`).
"""

from __future__ import annotations

import inspect
import logging
import platform
import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from kd_research.data.store import content_key, file_digest
from kd_research.evaluation import costs, energy, generation
from kd_research.evaluation.costs import Costs, fixed_costs, measure
from kd_research.interfaces import Inputs
from kd_research.records.provenance import device_name
from kd_research.records.record import read_json, write_json

log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds for a model that another process measures; then it is measured here too
FIXED = ("num_params", "model_bytes", "macs", "peak_memory_bytes")
NEEDED = (*FIXED, "latency_ms", "latency_p95_ms", "batch_latency_ms", "energy_joules")
Measured = tuple[Costs, dict[str, Any]]


class SharedCosts:
    """Gives the costs of models, measured before or now.

    Args:
        folder: of all costs.
        example: size -> that many prepared examples, on the models' device.
        settings: batch_size and num_runs, as of `measure`.
        described: each model, and a JSON value of what made it.
        since: what was measured before is measured again, and replaced; seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        example: Callable[[int], Inputs],
        settings: Mapping[str, Any],
        described: Mapping[nn.Module, Any],
        since: float = 0.0,
    ):
        self._example, self._settings, self._since = example, settings, since
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = {
            model: folder / f"{content_key(_content(model, made, example(1), settings))}.json"
            for model, made in described.items()
        }
        self._found: dict[nn.Module, Measured] = {}

    def begin(self) -> None:
        """Measure what is not known and no other process is measuring now; wait for nothing."""
        for model in self._paths:
            self._measure(model, timeout=0.0)

    def __call__(self, model: nn.Module) -> Measured:
        """The model's costs, and how they were measured; waits for who is measuring it."""
        if not self._measure(model, PATIENCE):
            self._found[model] = _now(lambda: measure(model, self._example, **self._settings))
        return self._found[model]

    def fixed(self, model: nn.Module) -> Costs:
        """The costs that need no clock, as of `fixed_costs`; known, or found without a trace."""
        if known := _read(self._paths[model], self._since, NEEDED):
            return {name: known[0][name] for name in FIXED}
        return fixed_costs(model, self._example(1))

    def _measure(self, model: nn.Module, timeout: float) -> bool:
        """Find or measure; False where another process has measured it for so long."""
        if model not in self._found:
            found = once(
                self._paths[model],
                lambda: measure(model, self._example, **self._settings),
                NEEDED,
                timeout,
                self._since,
            )
            if found is None:
                return False
            self._found[model] = found
        return True


def once(
    path: Path,
    measured: Callable[[], Measured],
    needed: tuple[str, ...],
    timeout: float,
    since: float = 0.0,
) -> Measured | None:
    """What the file has, or what is measured now and put there, marked `shared` or not.

    Args:
        path: of the file.
        measured: gives costs, and how they were measured.
        needed: names of costs; a file in which one is no number is damaged.
        timeout: seconds for another process that is measuring it; None is returned after them.
        since: what was measured before is measured again; seconds since 1970.
    """
    if known := _read(path, since, needed):
        return known
    found = None
    try:
        with FileLock(path.with_suffix(".lock"), timeout=timeout):
            if known := _read(path, since, needed):
                return known
            found = _now(measured)
            write_json(path, {"costs": found[0], "measurement": found[1]})
    except Timeout:
        return None
    except OSError as error:  # somebody else's folder, a disk that is full or read only
        log.warning("%s cannot be written (%s): costs are measured anew", path, error.strerror)
    return found or _now(measured)


def _now(measured: Callable[[], Measured]) -> Measured:
    found, how = measured()
    return found, {**how, "at": time.time(), "shared": False}


def _read(path: Path, since: float, needed: tuple[str, ...]) -> Measured | None:
    """What was measured before; None where there is nothing, or nothing that can be read."""
    try:
        known = read_json(path)
        values, how = dict(known["costs"]), dict(known["measurement"])
        is_old = float(how["at"]) < since
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if is_old or not values.keys() >= set(needed):
        return None
    if not all(values[name] is None or isinstance(values[name], int | float) for name in needed):
        return None
    return values, {**how, "shared": True}


def _content(
    model: nn.Module, made: Any, one: Inputs, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides a model's costs, as a JSON value."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return {
        **architecture(model, made),
        "input": layout(one),
        "machine": [platform.node(), str(device), device_name(), torch.get_num_threads()],
        "settings": dict(settings),
        "how": digests(costs, energy, generation),
        "counter": find_spec("zeus") is not None,
    }


def architecture(model: nn.Module, made: Any) -> dict[str, Any]:
    """What a model is without its weights and rates of dropout, as a JSON value.

    Args:
        model: any.
        made: a JSON value of what made it.
    """
    kinds = {base for module in model.modules() for base in type(module).__mro__}
    return {
        "made": _without_rates(made),
        "layers": re.sub(r"(Dropout\w*\()p=[^,)]*", r"\1", repr(model)),
        "tensors": [
            (name, tuple(value.shape), str(value.dtype))
            for name, value in (*model.named_parameters(), *model.named_buffers())
        ],
        "code": sorted({str(_source(kind)) for kind in kinds}),
        "compiled": getattr(model, "_compiled_call_impl", None) is not None,
        "torch": torch.__version__,
    }


def _without_rates(made: Any, name: str = "") -> Any:
    if isinstance(made, Mapping):
        return {key: _without_rates(value, str(key)) for key, value in made.items()}
    if isinstance(made, list):
        return [_without_rates(value, name) for value in made]
    is_rate = name.endswith("dropout") and isinstance(made, float)
    return "a rate" if is_rate and 0 < made < 1 else made


def layout(values: Any) -> list[Any]:
    """How tensors lie in memory, as a JSON value; what is none stays as it is."""
    leaves, structure = tree_flatten(values)
    return [
        (tuple(x.shape), x.stride(), str(x.dtype)) if isinstance(x, Tensor) else repr(x)
        for x in leaves
    ] + [str(structure)]


def digests(*modules: ModuleType) -> list[str]:
    """Of the code of modules."""
    return [file_digest(Path(str(module.__file__))) for module in modules]


@cache
def _source(kind: type) -> str | None:
    """A digest of the file that a class is written in; None of torch's own, and of none."""
    if kind.__module__.partition(".")[0] in ("torch", "builtins"):
        return None
    try:
        path = inspect.getsourcefile(kind)
    except TypeError:
        return None
    return None if path is None or not Path(path).is_file() else file_digest(Path(path))
