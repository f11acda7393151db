"""Text of the student kept and used again, and a share that grows where that seems to be needed.

The adaptive off-policy approach of DistiLLM (Ko et al. 2024, arXiv:2402.03898, section 3.2).

Shapes: B rows of this process, L positions of the longest of some texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_research.generation.decode import uniforms
from kd_research.interfaces import Batch, Count, NotNegative, Share
from kd_research.losses.positions import IGNORED

Text = tuple[Tensor, Tensor]  # input ids and labels, (L,) each, int32 on the CPU


class Replay:
    """The last texts that were drawn, a queue for each row of the batch.

    A batch is drawn anew with the probability share * (1 - step / steps), or share where the
    memory is not full yet; else, up to the share, its rows are drawn from the memory. A row's text
    comes from the queue of its own number, so that processes need not exchange any.

    The share grows by `growth` after an epoch whose loss on validation is `tolerance` above the
    one it is compared with: at first that of the first epoch, then that after which the share
    last grew. The authors compare with the loss before the first step, which nobody measures here.

    Args:
        capacity: texts, in all; the paper's 1000. Each row keeps capacity / batch size of them.
        growth: of the share, at most to 1; the authors' 0.1.
        tolerance: nats per token; the authors' 0.1.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(self, capacity: Count, growth: Share, tolerance: NotNegative):
        if capacity < 1 or not 0 <= growth <= 1 or not tolerance >= 0:
            raise ValueError(
                "replay needs capacity >= 1, growth in [0, 1] and tolerance >= 0, got "
                f"{capacity}, {growth} and {tolerance}; try 1000, 0.1 and 0.1"
            )
        self.capacity, self.growth, self.tolerance = capacity, float(growth), float(tolerance)
        self.each = capacity  # texts of one row
        self.grown = 0.0  # what the share has grown by
        self.compared: float | None = None
        self.texts: dict[int, list[Text]] = {}

    def bind(self, batch_size: int) -> None:
        """Divide the memory among the rows of the global batch."""
        self.each = max(1, self.capacity // batch_size)

    def share_of(self, share: float) -> float:
        """What a stated share has become."""
        return min(1.0, share + self.grown)

    def validated(self, loss: float, share: float) -> None:
        """Take note of the loss on validation; grow the share from `share`, if it is too large."""
        if self.compared is None:
            self.compared = loss
        elif loss >= self.compared + self.tolerance:
            self.grown = min(self.grown + self.growth, 1.0 - share)
            self.compared = loss

    @property
    def is_full(self) -> bool:
        """Whether every row has the texts that it may keep, but those that the last batch lacks."""
        return any(len(kept) >= self.each for kept in self.texts.values())

    def put(self, batch: Batch, rows: Tensor) -> None:
        """Keep a batch's texts; of a full row the oldest one goes.

        Args:
            batch: labels (B, L).
            rows: (B,), their numbers in the global batch.
        """
        assert isinstance(batch.inputs, dict)
        tokens, labels = (
            each.to("cpu", torch.int32) for each in (batch.inputs["input_ids"], batch.labels)
        )
        for place, row in enumerate(rows.tolist()):
            kept = self.texts.setdefault(row, [])
            kept.append((tokens[place].clone(), labels[place].clone()))
            del kept[: -self.each]

    def take(self, batch: Batch, rows: Tensor, seed: int, step: int) -> Batch:
        """A text for each row, any of its queue.

        Args:
            batch: gives the index and the device.
            rows: (B,), their numbers in the global batch.
            seed: of the drawing.
            step: names the batch.
        """
        chances = uniforms(seed, step, rows.tolist(), 1, stream="replay")[:, 0].tolist()
        first = next(iter(self.texts.values()))  # a short batch may have been all there was
        kept = [self.texts.get(row, first) for row in rows.tolist()]
        chosen = [
            texts[int(chance * len(texts))] for texts, chance in zip(kept, chances, strict=True)
        ]
        longest = max(len(labels) for _, labels in chosen)
        device = batch.labels.device

        def together(part: int, filling: int) -> Tensor:
            padded = [
                F.pad(text[part], (0, longest - len(text[part])), value=filling) for text in chosen
            ]
            return torch.stack(padded).to(device, torch.int64)

        return Batch({"input_ids": together(0, 0)}, together(1, IGNORED), batch.index, drawn=True)

    def state_dict(self) -> dict[str, Any]:
        """The memory and the share: a fit that is cut off goes on with them."""
        return {"texts": self.texts, "grown": self.grown, "compared": self.compared}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.texts = {row: [tuple(text) for text in kept] for row, kept in state["texts"].items()}
        self.grown, self.compared = state["grown"], state["compared"]
