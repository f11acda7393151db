"""What a run's device cannot do, in a line: work at all, or hold the run.

Torch tells such things late, in traces of CUDA's own words; a person needs the device, the sizes
and what to type instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kd_research.configuration.config import ConfigError

GIB = 1 << 30
# What torch, CUDA, cuDNN, cuBLAS, MPS and the C library say where memory ends.
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|_ALLOC_FAILED", re.IGNORECASE)
ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]i?B)", re.IGNORECASE)
SMALLER = (
    "try a smaller dataset.batch_size, a smaller model, or fewer runs on the device at once "
    "(sweep.workers)"
)


def check_device(device: torch.device, stated: str) -> None:
    """Try the device with the smallest convolution and its gradient.

    Args:
        device: Lightning's choice.
        stated: the configuration's `trainer.accelerator`, for the message.

    Raises:
        ConfigError: it cannot be used: it is busy, full, too old for this torch, or of a vendor
            that this torch was not built for.
    """
    if device.type == "cpu":
        return
    try:
        image = torch.ones(1, 1, 4, 4, device=device, requires_grad=True)
        total = F.conv2d(image, torch.ones(1, 1, 3, 3, device=device)).sum()
        torch.autograd.grad(total, image)[0].sum().item()  # waits for the device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        raise ConfigError(
            [
                f"trainer.accelerator={stated} chose {_name(device)}, which cannot be used: "
                f"{_first_line(error)}; free it, or type trainer.accelerator=cpu"
            ]
        ) from None


def memory_problem(error: BaseException, config: Mapping[str, Any]) -> str | None:
    """What was asked for, what there is, and the run's own sizes; None: it is another error.

    Args:
        error: what ended the run; one that it was raised from counts too.
        config: the whole configuration.
    """
    cause: BaseException | None = error
    while cause is not None and not is_memory_error(cause):
        cause = cause.__cause__
    if cause is None:
        return None
    device, asked, dataset = _where(cause), ASKED.search(str(cause)), config["dataset"]
    sizes = [f"it asked for {_readable(asked)}"] if asked else []
    sizes += [*_sizes_of(device), f"dataset.batch_size={dataset['batch_size']}"]
    if dataset.get("input_shape"):
        sizes.append(f"an input is {[*dataset['input_shape']]}")
    return f"out of memory on {_name(device)}: {', '.join(sizes)}; {SMALLER}"


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ended, of the device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error)))


def _where(error: BaseException) -> torch.device:
    """Whose memory ended: a run on a GPU takes the machine's too."""
    if isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error):
        return torch.device("cuda")
    return torch.device("mps" if "MPS" in str(error) else "cpu")


def _sizes_of(device: torch.device) -> list[str]:
    try:
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            own = torch.cuda.memory_reserved(device)
            return [f"{free / GIB:.2f} of {total / GIB:.2f} GiB are free, {own / GIB:.2f} its own"]
        if device.type == "cpu":
            page = os.sysconf("SC_PAGE_SIZE") / GIB
            free, total = (os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
            return [f"{free * page:.2f} of {total * page:.2f} GiB are free"]
    except (RuntimeError, AssertionError, ValueError, OSError):  # the device answers no more
        pass
    return []


def _readable(asked: re.Match[str]) -> str:
    amount, unit = asked.groups()
    return f"{float(amount) / GIB:.2f} GiB" if unit == "bytes" else f"{amount} {unit}"


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        try:
            return f"{device} ({torch.cuda.get_device_name(device)})"
        except (RuntimeError, AssertionError):
            pass
    return "the processor" if device.type == "cpu" else str(device)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)
