"""Energy by hardware counters, through Zeus: NVML on a GPU, RAPL on a processor.

Nothing is estimated: without a counter there is no number, and the record says why. A counter is
of the whole GPU or processor package, idle draw and other processes included.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

MIN_SECONDS = 0.5  # GPU counters step every 20 to 100 ms
WINDOW = "inference"


def joules_per_1000(run: Callable[[], Any], device: torch.device) -> tuple[float | None, str]:
    """Joules of 1,000 calls of `run`, and the counter; or None, and why there is none.

    Args:
        run: one inference, warmed up.
        device: where it computes.
    """
    try:
        from zeus.monitor import ZeusMonitor
    except ImportError:
        return None, "not measured: Zeus is not installed; pip install 'kd_research[energy]'"
    on_gpu = device.type == "cuda"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            monitor = ZeusMonitor(
                gpu_indices=[device.index or 0] if on_gpu else [],
                cpu_indices=[] if on_gpu else None,
            )
            if not (monitor.gpu_indices if on_gpu else monitor.cpu_indices):
                return None, f"not measured: no readable energy counter of the {device.type}"
            count, start = 0, time.perf_counter()
            monitor.begin_window(WINDOW)
            while time.perf_counter() - start < MIN_SECONDS:
                run()
                count += 1
            measured = monitor.end_window(WINDOW)
    except Exception as error:  # drivers and permissions fail in many types; a run must not
        return None, f"not measured: {type(error).__name__}: {error}"
    parts = measured.gpu_energy if on_gpu else measured.cpu_energy
    joules = sum((parts or {}).values())
    if joules <= 0:
        return None, "not measured: the counter did not move"
    counter = "NVML counter of the whole GPU" if on_gpu else "RAPL counter of the whole package"
    return 1000 * joules / count, f"{counter}, {count} inferences"
