"""Training on text that the student writes during the fit, after prompts of the data.

A batch of the data becomes a batch of text: of each window a prompt, and what is written after it.
What is drawn depends on (seed, step, row) alone, where a step is one of the optimizer's and a row's
number is that in all batches of the step: processes, and accumulated batches, draw the rows that
are theirs, as one process would in one batch.

Shapes: B rows of this process, T positions of a window.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from kd_research.configuration.text_checks import lengths
from kd_research.data.prompts import joined, prompts_of
from kd_research.generation.beside import Beside, Mix
from kd_research.generation.decode import generate, uniforms
from kd_research.generation.settings import GenerationConfig
from kd_research.interfaces import Batch, Count, NotNegative, Share
from kd_research.losses.positions import count_valid
from kd_research.training.optimizer_step import later_batches, step_of
from kd_research.training.replay import Replay


class StudentText:
    """Text of the student in place of the data, in a share of the optimizer's steps.

    On-policy distillation (GKD; Agarwal et al. 2024, arXiv:2306.13649, algorithm 1): the terms of
    the objective are minimised on it, with the live teacher. The cross-entropy with the labels, if
    it has a weight, is of the batches of data alone.

    Args:
        share: the probability that a step's batches are the student's text, in [0, 1].
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
        share: Share,
        prompt_tokens: Count | None = None,
        max_new_tokens: Count | None = None,
        generation: Mapping[str, Any] | None = None,
        beside: Mix | None = None,
        replay: Replay | None = None,
        data_weight: NotNegative = 0.0,
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
        self.seed, self.batch_size, self.num_steps = 0, 1, 1
        self._made: list[Batch] = []  # what the optimizer step has
        self.num_labels = 0  # of its text, in all processes
        self.counts = {"seconds": 0.0, "tokens": 0, "drawn": 0, "batches": 0}

    def bind(
        self, seed: int, context: int, stop: int | None, batch_size: int, accumulated: int = 1
    ) -> None:
        """Fit the lengths to the data.

        Args:
            seed: of the run.
            context: T.
            stop: the token that ends a text; None: none does.
            batch_size: of the global batch.
            accumulated: batches of an optimizer step.

        Raises:
            ValueError: prompt and text are longer than a window and the token after it.
        """
        self.seed, self.batch_size = seed, batch_size
        prompt, new = lengths(self.prompt_tokens, self.max_new_tokens, context)
        self.prompt_tokens, self.max_new_tokens = prompt, new
        settings = {**vars(self.config), "max_new_tokens": new, "stop": stop}
        self.config = GenerationConfig(**settings)
        if self.replay is not None:
            self.replay.bind(batch_size * accumulated)

    def start(self, num_steps: int) -> None:
        """Say how many optimizer steps the fit has in all."""
        self.num_steps = num_steps

    def __call__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        batches: Sequence[Batch],
        step: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> list[Batch]:
        """The batches of an optimizer step themselves, or the text that takes their places.

        Args:
            student: writes it, in eval mode; its mode is put back.
            teacher: has its say, where `beside` gives it one.
            batches: of the data, on the student's device; of this process.
            step: the optimizer step's number in the fit.
            rank: of this process.
            world_size: number of processes.
        """
        self.counts["batches"] += len(batches)
        (chance,) = uniforms(self.seed, step, [0], 1, stream="on-policy")[0].tolist()
        share = self.share if self.replay is None else self.replay.share_of(self.share)
        if chance >= share:
            return list(batches)
        self.counts["drawn"] += len(batches)
        rows = [
            torch.arange(len(batch.index)) * world_size + rank + number * self.batch_size
            for number, batch in enumerate(batches)
        ]
        both = list(zip(batches, rows, strict=True))
        replay = self.replay
        if replay is not None and replay.is_full and chance >= share * (1 - step / self.num_steps):
            return [replay.take(batch, own, self.seed, step) for batch, own in both]
        started = time.perf_counter()
        made = [self._written(student, teacher, batch, step, own) for batch, own in both]
        self.counts["seconds"] += time.perf_counter() - started
        if replay is not None:
            for each, own in zip(made, rows, strict=True):
                replay.put(each, own)
        return made

    def in_place_of(
        self,
        batch: Batch,
        batch_idx: int,
        trainer: Trainer,
        student: nn.Module,
        teacher: nn.Module,
    ) -> Batch:
        """A batch of a fit itself, or the text that takes its place.

        With the first batch of an optimizer step the text of all of them is drawn, so that their
        labels are counted (`num_labels`) before the first one is weighed. The weights are the same.

        Args:
            batch: of the data, prepared.
            batch_idx: of it in the epoch.
            trainer: in its fit.
            student: writes.
            teacher: has its say, where `beside` gives it one.
        """
        step = step_of(trainer, batch_idx)
        if batch_idx == step.first:
            batches = [batch, *later_batches(trainer, step)]
            ranks = (trainer.global_rank, trainer.world_size)
            self._made = self(student, teacher, batches, step.number, *ranks)
            if self._made[0].drawn:
                own = torch.tensor([count_valid(each.labels) for each in self._made]).sum()
                own = own.to(batch.labels.device)
                self.num_labels = int(trainer.strategy.reduce(own, reduce_op="sum"))
        return self._made[batch_idx - step.first]

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
