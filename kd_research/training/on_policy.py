"""Training on text that the student writes during the fit, after prompts of the data.

A batch of the data becomes a batch of text: of each window a prompt, and what is written after it.
Which batches, and what is drawn, depends on (seed, step, row) alone, where a row's number is that
of the whole batch: processes draw the rows that are theirs, as one process would.

Shapes: B rows of this process, T positions of a window.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.data.prompts import joined, lengths, prompts_of
from kd_research.generation.beside import Beside, Mix
from kd_research.generation.decode import generate, uniforms
from kd_research.generation.settings import GenerationConfig
from kd_research.interfaces import Batch
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
        prompt, new = lengths(self.prompt_tokens, self.max_new_tokens, context)
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
