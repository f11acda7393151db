"""Windows as prompts to write after, and what was written as windows to learn from.

Shapes: B rows, T positions of a window, P tokens of the longest prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_research.generation.decode import Generated, uniforms
from kd_research.interfaces import Batch
from kd_research.losses.positions import IGNORED


def lengths(prompt_tokens: int | None, max_new_tokens: int | None, context: int) -> tuple[int, int]:
    """The most tokens of a prompt and of what is written after it.

    Args:
        prompt_tokens: None is half a window.
        max_new_tokens: None is what the window leaves.
        context: T.

    Raises:
        ValueError: together they are longer than a window and the token after it.
    """
    prompt = prompt_tokens or max(1, context // 2)
    new = max_new_tokens or max(1, context + 1 - prompt)
    if prompt + new > context + 1:
        raise ValueError(
            f"prompt_tokens={prompt} and max_new_tokens={new} are more than a window of "
            f"{context} tokens and the one after it; try "
            f"max_new_tokens={max(1, context + 1 - prompt)}, or a larger dataset.context"
        )
    return prompt, new


def in_window(batch: Batch, row: int, most: int) -> list[Tensor]:
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
    tokens, places = batch.inputs["input_ids"][row], batch.inputs.get("position_ids")
    valid = batch.labels[row] != IGNORED
    starts = [] if places is None else (places[row] == 0).nonzero()[:, 0].tolist()
    starts = sorted({0, *starts})
    found = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if not bool(valid[start:end].any()):
            continue
        first = start + int(valid[start:end].int().argmax())
        if first == start:
            first = start + max(1, min(most, end - start - 1)) - 1
        found.append(tokens[max(start, first + 1 - most) : first + 1])
    return found


def padded(prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The prompts padded on the left, (B, P) int64, and the mask, 0 at the padding."""
    longest = max(map(len, prompts))
    tokens = prompts[0].new_zeros(len(prompts), longest, dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return tokens, mask


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
    return padded(chosen)


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
