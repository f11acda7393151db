"""What a loss says of the text that it trains on, made ready for a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from kd_research.configuration.text_checks import NO_JUDGE, lengths
from kd_research.data.module import DataModule
from kd_research.data.prompts import prompts_of
from kd_research.generation.decode import generate
from kd_research.interfaces import Batch
from kd_research.soft_targets.teacher_text import TeacherText
from kd_research.training.on_policy import StudentText

log = logging.getLogger(__name__)


def stated_text(config: Mapping[str, Any], data: DataModule) -> StudentText | TeacherText | None:
    """What makes text to train on, as `loss.text` states it; None where it states none.

    Args:
        config: the whole resolved configuration.
        data: its data.

    Raises:
        ValueError: a setting is out of its range, the data are no text, or lengths do not fit.
    """
    stated = config["loss"].get("text")
    if not stated:
        return None
    inputs, labels = data.train.take(torch.arange(1))
    if not (isinstance(inputs, dict) and "input_ids" in inputs and labels.ndim == 2):
        raise ValueError(
            f"loss.text draws text, and dataset {data.name} has no windows of it; type "
            "dataset=tinyshakespeare student=gpt teacher=gpt, or another loss"
        )
    text: StudentText | TeacherText = instantiate(stated, _convert_="all")
    if isinstance(text, TeacherText):
        lengths(text.prompt_tokens, text.max_new_tokens, labels.shape[1])
        return text
    if text.share == 0 and text.replay is None:
        return None
    accumulated = config["trainer"].get("accumulate_grad_batches", 1)
    stop, context = stop_of(config, data), labels.shape[1]
    if stop is not None and config["trainer"].get("strategy") == "fsdp":
        raise ValueError(
            "under trainer.strategy=fsdp all processes must run the student equally often, and "
            "text that is drawn during the fit ends earlier in one than in another; type "
            "trainer.strategy=ddp"
        )
    text.bind(config["seed"], context, stop, data.batch_size, accumulated)
    return text


def check_writers(
    text: StudentText,
    config: Mapping[str, Any],
    example: Batch,
    student: nn.Module,
    teacher: nn.Module | None,
) -> None:
    """Draw a token after the prompts of a few examples, so that a model that cannot is told now.

    Args:
        text: what is to make text during the fit.
        config: the whole resolved configuration.
        example: a few examples, on the CPU.
        student: writes.
        teacher: of the loss's terms; has a say, where `text` gives it one.

    Raises:
        ValueError: a model cannot write, or no term has a teacher.
    """
    if teacher is None:
        raise ValueError(NO_JUDGE.format(instead="loss=gkd"))
    assert text.prompt_tokens is not None
    rows = torch.arange(len(example.index))
    prompts, mask = prompts_of(example, text.prompt_tokens, config["seed"], 0, rows)
    one = replace(text.config, max_new_tokens=1)
    for net in (student, teacher) if text.beside is not None else (student,):
        generate(net, prompts, one, seed=0, attention_mask=mask)
    if config["soft_targets"]["cache"]:
        log.warning(
            "the teacher runs live: its outputs for text that is drawn during the fit cannot be "
            "cached"
        )


def stop_of(config: Mapping[str, Any], data: DataModule) -> int | None:
    """The token that ends a text of the data; None where none does."""
    last = config["dataset"].get("end_of_text")
    return None if last is None or data.tokenizer is None else data.tokenizer.token_to_id(last)
