"""Costs that depend on the architecture and the machine alone: measured once, by whoever is first.

`outputs/costs/KEY.json` has the costs of a model, under a content hash of how it is made, its
code, its layers, its input, the machine, the device, the threads and how it is measured. The
weights are not in it. So trials of one architecture have one latency, and a sweep over a loss
measures once. A record says whether its own run has measured (`provenance.measurement.shared`).
"""

from __future__ import annotations

import inspect
import platform
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.utils._pytree import tree_flatten

from kd_research.data.store import content_key, file_digest
from kd_research.evaluation import costs, energy, generation
from kd_research.evaluation.costs import Costs, measure
from kd_research.interfaces import Inputs
from kd_research.records.provenance import device_name
from kd_research.records.record import read_json, write_json

PATIENCE = 60.0  # seconds for a model that another process measures; then it is measured here too
Measured = tuple[Costs, dict[str, Any]]


class SharedCosts:
    """Gives the costs of models, measured before or now.

    Args:
        folder: of all costs.
        example: size -> that many prepared examples, on the models' device.
        settings: batch_size and num_runs, as of `measure`.
        described: each model, and a JSON value of what made it.
        anew: measure again what is known, and replace it.
    """

    def __init__(
        self,
        folder: Path,
        example: Callable[[int], Inputs],
        settings: Mapping[str, Any],
        described: Mapping[nn.Module, Any],
        anew: bool = False,
    ):
        self._example, self._settings, self._anew = example, settings, anew
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
            self._found[model] = measure(model, self._example, **self._settings)
        return self._found[model]

    def _measure(self, model: nn.Module, timeout: float) -> bool:
        """Find or measure; False where another process has measured it for so long."""
        if model in self._found:
            return True
        path = self._paths[model]
        if not self._anew and (known := _read(path)):
            self._found[model] = known
            return True
        try:
            with FileLock(path.with_suffix(".lock"), timeout=timeout):
                if not self._anew and (known := _read(path)):
                    self._found[model] = known
                    return True
                found, how = measure(model, self._example, **self._settings)
                how |= {"at": time.time(), "shared": False}
                write_json(path, {"costs": found, "measurement": how})
        except Timeout:
            return False
        self._found[model] = found, how
        return True


def _read(path: Path) -> Measured | None:
    """What was measured before; None where there is nothing, or nothing that can be read."""
    try:
        known = read_json(path)
        values, how = dict(known["costs"]), dict(known["measurement"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if not all(value is None or isinstance(value, int | float) for value in values.values()):
        return None
    return values, {**how, "shared": True}


def _content(
    model: nn.Module, made: Any, one: Inputs, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All that decides a model's costs, as a JSON value."""
    inputs, structure = tree_flatten(one)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    kinds = {type(module) for module in model.modules()}
    return {
        "made": made,
        "layers": repr(model),
        "tensors": [
            (name, tuple(value.shape), str(value.dtype))
            for name, value in (*model.named_parameters(), *model.named_buffers())
        ],
        "code": sorted({str(_source(kind)) for kind in kinds}),
        "compiled": getattr(model, "_compiled_call_impl", None) is not None,
        "input": [(tuple(x.shape), x.stride(), str(x.dtype)) for x in inputs] + [str(structure)],
        "machine": [platform.node(), str(device), device_name(), torch.get_num_threads()],
        "torch": torch.__version__,
        "settings": dict(settings),
        "how": [file_digest(Path(str(module.__file__))) for module in (costs, energy, generation)],
        "counter": find_spec("zeus") is not None,
    }


def _source(kind: type) -> str | None:
    """A digest of the file that a class is written in; None of torch's own, and of none."""
    if kind.__module__.partition(".")[0] == "torch":
        return None
    try:
        path = inspect.getsourcefile(kind)
    except TypeError:
        return None
    return None if path is None or not Path(path).is_file() else file_digest(Path(path))
