"""The parts of the training loss, as means over an epoch's labels on all processes."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor


class TrainLosses:
    """Adds up parts by name; a part counts where it was computed, by the batch's labels."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, count: int, parts: dict[str, Tensor]) -> None:
        """A batch of `count` labels in this process, and its parts, each ()."""
        self._kept.append((count, parts))

    def take(self, strategy: Strategy, device: torch.device) -> dict[str, float]:
        """Mean of each part over the labels of all processes; starts anew.

        Every process has computed the same parts.
        """
        kept, self._kept = self._kept, []
        names = list(dict.fromkeys(name for _, parts in kept for name in parts))
        sums = []
        for name in names:
            own = [(count, parts[name]) for count, parts in kept if name in parts]
            count = torch.tensor([each for each, _ in own], dtype=torch.float64)
            values = torch.stack([value for _, value in own]).cpu().double()
            sums.append(torch.stack([values @ count, count.sum()]))
        totals = strategy.reduce(torch.stack(sums).to(device, torch.float32), reduce_op="sum")
        return {
            f"train_{name}": value / count
            for name, (value, count) in zip(names, totals.tolist(), strict=True)
        }
