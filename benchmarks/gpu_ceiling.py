"""What a device does at best, and the bytes that a step moves: the two halves of its limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from gpu import Bench
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kd_research.evaluation.costs import synchronize


class Traffic(TorchDispatchMode):
    """Bytes that the operators of a block read and write, each by itself, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = [*tree_leaves(args), *tree_leaves(kwargs), *tree_leaves(result)]
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        return result


def rates(bench: Bench) -> dict[str, float]:
    """What the device does at best: products in FLOP/s, a copy in bytes/s (read and written)."""
    device, size = torch.device(bench.device), 256 if bench.cpu else 8192

    def best(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(6):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    found: dict[str, float] = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.randn(size, size, device=device, dtype=dtype)
        found[name] = 2 * size**3 / best(lambda a=a: a @ a)
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.randn((1 << 22) if bench.cpu else (1 << 28), device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / best(lambda: target.copy_(source))
    for name, value in found.items():
        unit = "GB/s" if name == "copy" else "TFLOP/s"
        bench.tell(f"at best: {name}", value / (1e9 if name == "copy" else 1e12), unit)
    return found
