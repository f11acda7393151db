"""What a model costs: parameters, bytes, multiply-accumulates, latency, memory, energy.

What else runs on the machine meanwhile disturbs latencies, and the load is recorded with them.
`python -m kd_research.report DIR --remeasure` repeats it later, on a quiet machine.
"""

from __future__ import annotations

import io
import os
import statistics
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kd_research.evaluation.energy import joules_per_1000
from kd_research.evaluation.generation import speeds
from kd_research.interfaces import Inputs
from kd_research.models.capture import Capture

NUM_WARMUP = 5
MAX_SECONDS = 2.0  # of one latency; a slow model gets fewer passes, but never under 5
LOCK_NAME = "kd_research-measure.lock"

Costs = dict[str, float | int | None]


def measuring() -> AbstractContextManager[Any]:
    """The lock under which one process of this machine at a time measures."""
    return FileLock(Path(tempfile.gettempdir()) / LOCK_NAME, mode=0o666)


def costs_of_pair(
    student: nn.Module,
    teacher: nn.Module | None,
    measured: Callable[[nn.Module], tuple[Costs, dict[str, Any]]],
) -> tuple[Costs, dict[str, Any]]:
    """The student's costs, the teacher's under teacher_*, their ratios, and how it was measured.

    Args:
        student: on the device where it is to be measured.
        teacher: likewise; None leaves its columns out.
        measured: gives of each what `measure` does.

    Returns:
        the costs of `measure`; compression_ratio (parameters), speedup (latency) and energy_ratio,
        each teacher / student; and for the record: device, threads, passes, load, energy source.
    """
    costs, how = measured(student)
    costs = dict(costs)
    if teacher is not None:
        teachers, theirs = measured(teacher)
        how = {**how, "teacher_shared": theirs.get("shared")}
        costs |= {f"teacher_{name}": value for name, value in teachers.items()}
        ratios = {
            "compression_ratio": "num_params",
            "speedup": "latency_ms",
            "energy_ratio": "energy_joules",
        }
        for name, cost in ratios.items():
            own, its = costs[cost], teachers[cost]
            costs[name] = its / own if own and its is not None else None
    return costs, how


def measure(
    model: nn.Module, example: Callable[[int], Inputs], batch_size: int, num_runs: int
) -> tuple[Costs, dict[str, Any]]:
    """The costs of `model`, in eval mode, on the device where it is and with this many threads.

    Args:
        model: inputs -> logits.
        example: size -> that many prepared examples, on the model's device.
        batch_size: of batch_latency_ms.
        num_runs: forward passes of each latency, after 5 that do not count.

    Returns:
        num_params; model_bytes, of the saved weights; macs of one example; latency_ms and
        latency_p95_ms, median and 95th percentile at batch 1; batch_latency_ms, the median of a
        whole batch; peak_memory_bytes at batch 1; energy_joules of 1,000 inferences at batch 1,
        None without a counter; what decoding costs a language model (`generation.speeds`); and
        how it was measured.
    """
    was_training = model.training
    model.eval()
    one, batch = example(1), example(batch_size)
    run = Capture(model)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        single = latencies(lambda: run(one), num_runs, device)
        whole = latencies(lambda: run(batch), num_runs, device)
        energy, energy_source = joules_per_1000(lambda: run(one), device)
        costs = fixed_costs(model, one) | {
            "latency_ms": 1000 * statistics.median(single),
            "latency_p95_ms": 1000 * torch.tensor(single).quantile(0.95).item(),
            "batch_latency_ms": 1000 * statistics.median(whole),
            "energy_joules": energy,
            **speeds(model, one, batch_size),
        }
    model.train(was_training)
    how = {
        "device": str(device),
        "num_threads": torch.get_num_threads(),
        "num_runs": len(single),
        "batch_size": batch_size,
        "num_batch_runs": len(whole),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "energy": energy_source,
    }
    return costs, how


def fixed_costs(model: nn.Module, one: Inputs) -> Costs:
    """The costs that need no clock and no training.

    Args:
        model: inputs -> logits.
        one: a prepared example, on the model's device.

    Returns:
        num_params, model_bytes, macs and peak_memory_bytes, as `measure` has them.
    """
    was_training = model.training
    model.eval()
    costs: Costs = {
        "num_params": num_params(model),
        "model_bytes": model_bytes(model),
        "macs": macs(model, one),
        "peak_memory_bytes": peak_memory_bytes(model, one),
    }
    model.train(was_training)
    return costs


def num_params(model: nn.Module) -> int:
    """Number of parameters, trained or not; shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_bytes(model: nn.Module) -> int:
    """Size of the saved weights."""
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    return saved.getbuffer().nbytes


def macs(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-accumulates of one forward pass, by torch's counter: products and convolutions.

    The counter does not see fused kernels (oneDNN's LSTM, the fast paths of attention): they are
    turned off while it counts. Element-wise work and look-ups count nothing.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as plain, warnings.catch_warnings():
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                warnings.simplefilter("ignore")  # oneDNN's flags speak of TF32 on other devices
                plain.enter_context(torch.backends.mkldnn.flags(enabled=False))
            plain.enter_context(sdpa_kernel(SDPBackend.MATH))
            plain.enter_context(torch.no_grad())
            with counter:
                Capture(model)(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2


def latencies(run: Callable[[], Any], num_runs: int, device: torch.device) -> list[float]:
    """Seconds of each of `num_runs` passes after the warm-up; of fewer where these are slow."""
    for _ in range(NUM_WARMUP):
        run()
    synchronize(device)
    begin = time.perf_counter()
    found: list[float] = []
    while len(found) < num_runs:
        start = time.perf_counter()
        run()
        synchronize(device)
        found.append(time.perf_counter() - start)
        if len(found) >= 5 and time.perf_counter() - begin > MAX_SECONDS:
            break
    return found


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told; the CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def peak_memory_bytes(model: nn.Module, inputs: Inputs) -> int:
    """Weights, buffers, inputs and the most bytes of other live tensors in one forward pass.

    Counted tensor by tensor, so that the same model gives the same number on every machine; a
    kernel's own workspace is not in it.
    """
    live = LiveBytes([*model.parameters(), *model.buffers(), *tree_leaves(inputs)])
    with torch.no_grad(), live:
        Capture(model)(inputs)
    return live.peak


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators make, from birth to death."""

    def __init__(self, present: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[int, int] = {}  # address of the storage -> bytes
        self.now = self.peak = 0
        for value in present:
            self._see(value, mortal=False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            self._see(value)
        return result

    def _see(self, value: Any, mortal: bool = True) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        if storage._cdata in self.seen:
            return
        self.seen[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        if mortal:
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, address: int) -> None:
        self.now -= self.seen.pop(address)
