"""What a loss says of the text that it trains on, made ready for a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from kd_research.data.module import DataModule
from kd_research.data.prompts import prompts_of
from kd_research.data.sources import Examples
from kd_research.generation.decode import generate
from kd_research.interfaces import Batch
from kd_research.soft_targets.teacher_text import TeacherText
from kd_research.teacher.train import Teacher
from kd_research.training.distill import Distiller
from kd_research.training.on_policy import StudentText

log = logging.getLogger(__name__)


def student_text(
    config: Mapping[str, Any],
    data: DataModule,
    module: Distiller,
    example: Batch,
    teacher: nn.Module,
) -> StudentText | None:
    """What makes text during the fit, as `loss.text` states it; None where it states none.

    Draws a token after the prompts of a few examples, so that a model that cannot is told now.

    Args:
        config: the whole resolved configuration.
        data: its data.
        module: built.
        example: a few examples, on the CPU.
        teacher: on the device where the student is not yet.

    Raises:
        ValueError: the data are no text, lengths do not fit, or a model cannot write.
    """
    stated = config["loss"].get("text")
    if not stated or is_teacher_text(stated):
        return None
    refuse_other_data(data, example)
    text: StudentText = instantiate(stated, _convert_="all")
    if text.share == 0 and text.replay is None:
        return None
    text.bind(config["seed"], example.labels.shape[1], stop_of(config, data), data.batch_size)
    if config["trainer"].get("accumulate_grad_batches", 1) != 1:
        raise ValueError(
            "text drawn during the fit has as many labels as it happens to have, which are not "
            "known when the first of several accumulated batches is weighed; type "
            "trainer.accumulate_grad_batches=1 and a larger dataset.batch_size"
        )
    assert text.prompt_tokens is not None
    rows = torch.arange(len(example.index))
    prompts, mask = prompts_of(example, text.prompt_tokens, config["seed"], 0, rows)
    one = replace(text.config, max_new_tokens=1)
    for net in (module.student, teacher) if text.beside is not None else (module.student,):
        generate(net, prompts, one, seed=0, attention_mask=mask)
    if config["soft_targets"]["cache"]:
        log.warning(
            "the teacher runs live: its outputs for text that is drawn during the fit cannot be "
            "cached"
        )
    return text


def teacher_text(
    config: Mapping[str, Any], data: DataModule, teacher: Teacher, device: torch.device
) -> tuple[DataModule, dict[str, float]]:
    """The data with the teacher's text to train on, and its costs, where `loss.text` states that.

    Args:
        config: the whole resolved configuration.
        data: its data.
        teacher: writes the text, if nobody has yet.
        device: where it is to.

    Raises:
        ValueError: the data are no text, lengths do not fit, or the teacher cannot write.
    """
    stated = config["loss"].get("text")
    if not stated or not is_teacher_text(stated):
        return data, {}
    refuse_other_data(data, data.train.take(torch.arange(1)))
    text: TeacherText = instantiate(stated, _convert_="all")
    root = Path(config["output_dir"]) / "teacher_text"
    net = teacher.module.to(device)
    return text.instead(data, net, teacher.key, stop_of(config, data), root), text.costs()


def is_teacher_text(stated: Mapping[str, Any]) -> bool:
    """Whether `loss.text` is written before the fit, once."""
    return bool(stated["_target_"] == f"{TeacherText.__module__}.{TeacherText.__qualname__}")


def refuse_other_data(data: DataModule, example: Examples | Batch) -> None:
    """Let data pass that are text with a label a token.

    Raises:
        ValueError: they are not.
    """
    inputs = example.inputs
    if not (isinstance(inputs, dict) and "input_ids" in inputs and example.labels.ndim == 2):
        raise ValueError(
            f"loss.text draws text, and dataset {data.name} has none; type "
            "dataset=tinyshakespeare student=gpt teacher=gpt, or loss.text=null"
        )


def stop_of(config: Mapping[str, Any], data: DataModule) -> int | None:
    """The token that ends a text of the data; None where none does."""
    last = config["dataset"].get("end_of_text")
    return None if last is None or data.tokenizer is None else data.tokenizer.token_to_id(last)
