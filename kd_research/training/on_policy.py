"""Training on text that the student writes during the fit, after prompts of the data.

A batch of the data becomes a batch of text: of each window a prompt, and what is written after it.
Which batches, and what is drawn, depends on (seed, step, row) alone, where a row's number is that
of the whole batch: processes draw the rows that are theirs, as one process would.

Shapes: B rows of this process, T positions of a window, P tokens of the longest prompt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.generation.beside import Beside, Mix
from kd_research.generation.decode import Generated, generate, uniforms
from kd_research.generation.settings import GenerationConfig
from kd_research.interfaces import Batch
from kd_research.losses.positions import IGNORED
from kd_research.training.replay import Replay


class StudentText:
    """Text of the student in place of a share of the training batches.

    On-policy distillation (GKD; Agarwal et al. 2024, arXiv:2306.13649, algorithm 1): the terms of
    the objective are minimised on it, with the live teacher. The cross-entropy with the labels, if
    it has a weight, is of the batches of data alone.

    Args:
        share: the probability that a batch is the student's text, in [0, 1].
        prompt_tokens: the most tokens of a prompt, of longer ones the last; where the data have
            no prompts, the tokens of a window that are one. None: half a window.
        max_new_tokens: the most that is written after it. None: what the window leaves.
        generation: temperature, top_k and top_p by which the student draws.
        beside: how a teacher has a say in what is drawn; None: it has none.
        replay: what is kept of earlier text, and when it is used again; None: nothing is.
        data_weight: of the cross-entropy with the data's own labels on the windows themselves, in
            addition, where the batch is the student's text.

    Raises:
        ValueError: a value is out of its range; all of them at once.
    """

    def __init__(
        self,
        share: float,
        prompt_tokens: int | None = None,
        max_new_tokens: int | None = None,
        generation: Mapping[str, Any] | None = None,
        beside: Mix | None = None,
        replay: Replay | None = None,
        data_weight: float = 0.0,
    ):
        problems = []
        if not 0 <= share <= 1:
            problems.append(f"share must be in [0, 1], got {share}; try 0.5")
        for name, value in (("prompt_tokens", prompt_tokens), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                problems.append(f"{name} must be >= 1 or null, got {value}; try null")
        if not data_weight >= 0:
            problems.append(f"data_weight must be >= 0, got {data_weight}; try 0")
        try:
            self.config = GenerationConfig(**(generation or {}))
        except (TypeError, ValueError) as error:
            problems.append(f"generation: {error}")
        if problems:
            raise ValueError("\n".join(problems))
        self.share, self.beside, self.replay = float(share), beside, replay
        self.prompt_tokens, self.max_new_tokens = prompt_tokens, max_new_tokens
        self.data_weight = float(data_weight)
        self.seed, self.num_steps = 0, 1
        self.counts = {"seconds": 0.0, "tokens": 0, "drawn": 0, "batches": 0}

    def bind(self, seed: int, context: int, stop: int | None, batch_size: int) -> None:
        """Fit the lengths to the data.

        Args:
            seed: of the run.
            context: T.
            stop: the token that ends a text; None: none does.
            batch_size: of the global batch.

        Raises:
            ValueError: prompt and text are longer than a window and the token after it.
        """
        self.seed = seed
        prompt = self.prompt_tokens or max(1, context // 2)
        new = self.max_new_tokens or max(1, context + 1 - prompt)
        if prompt + new > context + 1:
            raise ValueError(
                f"prompt_tokens={prompt} and max_new_tokens={new} are more than a window of "
                f"{context} tokens and the one after it; try "
                f"max_new_tokens={max(1, context + 1 - prompt)}, or a larger dataset.context"
            )
        self.prompt_tokens, self.max_new_tokens = prompt, new
        settings = {**vars(self.config), "max_new_tokens": new, "stop": stop}
        self.config = GenerationConfig(**settings)
        if self.replay is not None:
            self.replay.bind(batch_size)

    def start(self, num_steps: int) -> None:
        """Say how many batches the fit has in all."""
        self.num_steps = num_steps

    def __call__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        batch: Batch,
        step: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batch:
        """The batch itself, or the text that takes its place.

        Args:
            student: writes it, in eval mode; its mode is put back.
            teacher: has its say, where `beside` gives it one.
            batch: of the data, on the student's device; of this process.
            step: the batch's number in the fit.
            rank: of this process.
            world_size: number of processes.
        """
        self.counts["batches"] += 1
        (chance,) = uniforms(self.seed, step, [0], 1, stream="on-policy")[0].tolist()
        share = self.share if self.replay is None else self.replay.share_of(self.share)
        if chance >= share:
            return batch
        self.counts["drawn"] += 1
        rows = torch.arange(len(batch.index)) * world_size + rank
        replay = self.replay
        if replay is not None and replay.is_full and chance >= share * (1 - step / self.num_steps):
            return replay.take(batch, rows, self.seed, step)
        started = time.perf_counter()
        made = self._written(student, teacher, batch, step, rows)
        self.counts["seconds"] += time.perf_counter() - started
        if replay is not None:
            replay.put(made, rows)
        return made

    def _written(
        self, student: nn.Module, teacher: nn.Module, batch: Batch, step: int, rows: Tensor
    ) -> Batch:
        assert self.prompt_tokens is not None
        prompts, mask = prompts_of(batch, self.prompt_tokens, self.seed, step, rows)
        propose, config = None, self.config
        if self.beside is not None:
            propose = Beside(teacher, self.beside, config)
            config = GenerationConfig(max_new_tokens=config.max_new_tokens, stop=config.stop)
        pad = 0 if config.stop is None else config.stop
        made = generate(
            student,
            prompts,
            config,
            seed=self.seed,
            step=step,
            rows=rows,
            attention_mask=mask,
            pad=pad,
            propose=propose,
        )
        self.counts["tokens"] += int(made.mask.sum())
        return joined(batch, prompts, mask, made, pad)

    def validated(self, loss: float) -> None:
        """Take note of the loss on validation, after each epoch."""
        if self.replay is not None:
            self.replay.validated(loss, self.share)

    def costs(self) -> dict[str, float]:
        """What the text cost this process: for the record."""
        counts = self.counts
        return {
            "generation_seconds": counts["seconds"],
            "generated_tokens": counts["tokens"],
            "on_policy_share": counts["drawn"] / max(1, counts["batches"]),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a fit that is cut off needs to go on."""
        replay = None if self.replay is None else self.replay.state_dict()
        return {"counts": dict(self.counts), "replay": replay}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.counts = dict(state["counts"])
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])


def prompts_of(
    batch: Batch, most: int, seed: int, step: int, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each window a prompt: of several documents packed into it one, drawn by the row.

    A prompt is what stands before the first label of its document. Where that is the document's
    first token alone, as in plain text, it is the first `most` tokens, of which at least the last
    is left to be written.

    Args:
        batch: inputs "input_ids" (B, T) and, where documents are packed, "position_ids".
        most: P; of longer prompts the last P tokens.
        seed: of the drawing.
        step: names the batch.
        rows: (B,), names the rows.

    Returns:
        The tokens, (B, P) int64, padded on the left, and the mask, 0 at the padding.
    """
    assert isinstance(batch.inputs, dict)
    tokens, places = batch.inputs["input_ids"], batch.inputs.get("position_ids")
    chances = uniforms(seed, step, rows.tolist(), 1, stream="document")[:, 0].tolist()
    valid = (batch.labels != IGNORED).cpu()
    length = tokens.shape[1]
    found = []
    for row, chance in enumerate(chances):
        starts = [0] if places is None else (places[row] == 0).nonzero()[:, 0].tolist()
        starts = sorted({0, *starts})
        spans = list(zip(starts, [*starts[1:], length], strict=True))
        spans = [(start, end) for start, end in spans if bool(valid[row, start:end].any())]
        start, end = spans[int(chance * len(spans))]
        first = start + int(valid[row, start:end].int().argmax())
        if first == start:
            first = start + max(1, min(most, end - start - 1)) - 1
        found.append(tokens[row, max(start, first + 1 - most) : first + 1])
    longest = max(map(len, found))
    prompts = tokens.new_zeros(len(found), longest, dtype=torch.int64)
    mask = torch.zeros_like(prompts)
    for row, prompt in enumerate(found):
        prompts[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return prompts, mask


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
