"""What the GPU says of itself: memory, utilisation, energy; nothing where there is no GPU.

Through NVML (nvidia-ml-py) where it is installed, else through nvidia-smi, which has no counter of
energy. Neither starts CUDA in this process. Every reading is of the whole GPU.
"""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

MIB = 1 << 20
EVERY_SECONDS = 0.05


class Meter:
    """The first GPU that NVIDIA's driver names; `on` is whether it is to be asked."""

    def __init__(self, on: bool):
        self.on, self._nvml, self._handle = on, None, None
        if on:
            with suppress(Exception):  # not installed, or no driver: NVML raises its own types
                import pynvml

                pynvml.nvmlInit()
                self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
                self._nvml = pynvml

    def _ask(self, name: str) -> str | None:
        """One field of nvidia-smi."""
        command = ["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader,nounits", "-i", "0"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip().splitlines()[0]

    def describe(self) -> dict[str, Any]:
        """Name, driver and memory in all, for the first line of the results."""
        if not self.on:
            return {}
        fields = ("name", "driver_version", "memory.total")
        return {f"gpu_{name.replace('.', '_')}": self._ask(name) for name in fields}

    def used_mib(self) -> float | None:
        """Memory in use by all processes together, MiB."""
        if not self.on:
            return None
        if self._nvml:
            return float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used) / MIB
        value = self._ask("memory.used")
        return float(value) if value else None

    def utilisation(self) -> float | None:
        """The share of the driver's last window in which a kernel ran, in percent."""
        if not self.on:
            return None
        if self._nvml:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        value = self._ask("utilization.gpu")
        return float(value) if value else None

    def joules(self) -> float | None:
        """The counter of all energy since the driver was loaded; None without one."""
        if not (self.on and self._nvml):
            return None
        with suppress(Exception):  # older GPUs have none
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        return None

    @contextmanager
    def watched(self) -> Iterator[list[float]]:
        """Utilisation, sampled by a thread while the block runs."""
        found: list[float] = []
        over = threading.Event()

        def sample() -> None:
            while not over.wait(EVERY_SECONDS if self._nvml else 0.5):
                value = self.utilisation()
                if value is not None:
                    found.append(value)

        thread = threading.Thread(target=sample, daemon=True)
        if self.on:
            thread.start()
        try:
            yield found
        finally:
            over.set()
            if self.on:
                thread.join(timeout=5)

    def settled_mib(self, least: float | None, seconds: float = 10.0) -> float | None:
        """Memory in use once it is down to `least` plus 64 MiB, or after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            used = self.used_mib()
            if used is None or least is None or used <= least + 64 or time.monotonic() > deadline:
                return used
            time.sleep(0.2)


def mean_or_none(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None
