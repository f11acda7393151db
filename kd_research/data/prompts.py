"""Windows as prompts to write after, and what was written as windows to learn from.

Shapes: B rows, T positions of a window, P tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kd_research.data.sources import Split
from kd_research.generation.decode import Generated, pad_left, uniforms
from kd_research.interfaces import Batch
from kd_research.losses.positions import IGNORED


class Document(NamedTuple):
    """Where a document with something to learn lies in its window.

    Attributes:
        start: of its first token.
        first: of its first label.
        last: of its last label.
        end: of what follows it.
    """

    start: int
    first: int
    last: int
    end: int


class Pair(NamedTuple):
    """The token ids of a prompt and of its completion."""

    prompt: list[int]
    completion: list[int]


def documents_in(labels: Tensor, positions: Tensor | None) -> Iterator[Document]:
    """The documents of a window that have something to learn, in their order.

    Args:
        labels: (T,).
        positions: (T,), 0 where a document begins; None: the window is one.
    """
    starts = [] if positions is None else (positions == 0).nonzero()[:, 0].tolist()
    starts = sorted({0, *starts})
    for start, end in zip(starts, [*starts[1:], len(labels)], strict=True):
        learnt = (labels[start:end] != IGNORED).nonzero()[:, 0].tolist()
        if learnt:
            yield Document(start, start + learnt[0], start + learnt[-1], end)


def pairs_of(split: Split) -> Iterator[Pair]:
    """The prompts with completions that are packed into a split's windows, in their order.

    A prompt is what is not learnt at the front of a document. A completion that its window cuts is
    what the window has.
    """
    for index in range(len(split)):
        window = split.take(torch.tensor([index]))
        if not isinstance(window.inputs, dict) or "input_ids" not in window.inputs:
            return
        ids, labels = window.inputs["input_ids"][0].long(), window.labels[0].long()
        positions = window.inputs.get("position_ids")
        for each in documents_in(labels, None if positions is None else positions[0]):
            if each.first > each.start:
                prompt = ids[each.start : each.first + 1]
                yield Pair(prompt.tolist(), labels[each.first : each.last + 1].tolist())


def in_window(batch: Batch, row: int, most: int) -> list[list[int]]:
    """The prompts of a window, of each document with something to learn one.

    A prompt is what stands before the first label of its document. Where that is the document's
    first token alone, as in plain text, it is the first `most` tokens, of which at least the last
    is left to be written.

    Args:
        batch: inputs "input_ids" (B, T) and, where documents are packed, "position_ids".
        row: of the batch.
        most: P; of longer prompts the last P tokens.
    """
    assert isinstance(batch.inputs, dict)
    tokens, positions = batch.inputs["input_ids"][row].tolist(), batch.inputs.get("position_ids")
    found = []
    for each in documents_in(batch.labels[row], None if positions is None else positions[row]):
        first = each.first
        if first == each.start:
            first += max(1, min(most, each.end - each.start - 1)) - 1
        found.append(tokens[max(each.start, first + 1 - most) : first + 1])
    return found


def prompts_of(
    batch: Batch, most: int, seed: int, step: int, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each window a prompt: of several documents packed into it one, drawn by the row.

    Args:
        batch: on any device.
        most: P.
        seed: of the drawing.
        step: names the batch.
        rows: (B,), names the rows.

    Returns:
        The tokens, (B, P) int64, padded on the left, and the mask, 0 at the padding.
    """
    chances = uniforms(seed, step, rows.tolist(), 1, stream="document")[:, 0].tolist()
    chosen = []
    for row, chance in enumerate(chances):
        found = in_window(batch, row, most)
        chosen.append(found[int(chance * len(found))])
    tokens, mask = pad_left(chosen)
    return tokens.to(batch.labels.device), mask.to(batch.labels.device)


def joined(batch: Batch, prompts: Tensor, mask: Tensor, made: Generated, pad: int) -> Batch:
    """Prompts and what was written as a batch to learn from, padded on the right.

    The labels are the tokens written, up to and with the one that ends a text; not the prompt, nor
    what stands after the end, though that may be the same token.

    Args:
        batch: gives the index.
        prompts: (B, P), padded on the left.
        mask: (B, P), 0 at the padding.
        made: what was written after each.
        pad: what stands after the end.
    """
    lengths = mask.sum(dim=1)
    texts = torch.cat([prompts, made.tokens.to(prompts.device)], dim=1)
    written = torch.cat([torch.zeros_like(mask, dtype=torch.bool), made.mask.to(mask.device)], 1)
    there = torch.cat([mask.bool(), made.mask.to(mask.device)], dim=1)
    longest = int(there.sum(dim=1).max())
    at = torch.arange(longest, device=texts.device) + (prompts.shape[1] - lengths)[:, None]
    inside = at < texts.shape[1]
    at = at.clamp(max=texts.shape[1] - 1)
    ids = torch.where(inside & there.gather(1, at), texts.gather(1, at), pad)
    labels = torch.where(inside & written.gather(1, at), ids, IGNORED)
    return Batch({"input_ids": ids[:, :-1]}, labels[:, 1:], batch.index, drawn=True)
