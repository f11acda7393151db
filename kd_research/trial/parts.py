"""Single parts of a run, as its configuration states them; what is wrong names the part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from kd_research.configuration.config import ConfigError
from kd_research.configuration.own_classes import PACKAGE
from kd_research.data.module import DataModule
from kd_research.data.store import refuse_files
from kd_research.interfaces import Batch
from kd_research.teacher import chain, stated
from kd_research.teacher import train as teachers
from kd_research.teacher.checkpoint import load_weights
from kd_research.training.adapters import adapt, documents
from kd_research.training.distill import Distiller
from kd_research.training.schedules import Schedule
from kd_research.transfer.replace import Maker, is_made, place_of

log = logging.getLogger(__name__)
STARTS = ("checkpoint", "pretraining", "from_teacher")  # where a student's weights come from


def maker_of(config: Mapping[str, Any], data: DataModule) -> Maker | None:
    """What makes the transfer set; None where the training split is it. No teacher is needed yet.

    A maker may have `check(shape, teacher, num_classes)`, which raises where it can make no example
    of that shape of such a teacher; it is given one that is not trained.

    Args:
        config: of the run.
        data: whose examples' shape the set has.

    Raises:
        ValueError: the settings or the data do not fit, or a file lies where the sets shall be.
    """
    if not is_made(config):
        return None
    refuse_files(place_of(config))
    make: Maker = instantiate(config["transfer"])
    if data.input_shape is None or data.has_positions:
        raise ValueError(
            f"a transfer set is made of inputs of one shape and one label each; dataset "
            f"{data.name!r} has others; type transfer=none"
        )
    check = getattr(make, "check", None)
    if check is not None:
        with torch.random.fork_rng(devices=[]):
            check(list(data.input_shape), chain.stand_in(config, data), data.num_classes)
    return make


def make_student(config: Mapping[str, Any], data: DataModule) -> nn.Module:
    """The student as its configuration states it, before anything is trained; in training mode.

    Raises:
        ConfigError: it cannot be built, or its checkpoint does not fit it.
    """
    own = config["student"]

    def build() -> nn.Module:
        module = stated.model_of(own, config["dataset"])
        stated.to_vocabulary("student", module, data)
        if own.get("checkpoint") is not None:
            load_weights(module, Path(own["checkpoint"]))
        return module.train()  # what is loaded pretrained comes in eval mode, and would stay so

    module: nn.Module = make("student", build)
    return module


def with_adapter(config: Mapping[str, Any], data: DataModule, student: nn.Module) -> nn.Module:
    """The student with what `student.adapter` states, after its weights have come.

    Raises:
        ConfigError: the adapter does not go with it, or with the data.
    """
    own = config["student"].get("adapter")
    if not own:
        return student

    def build() -> nn.Module:
        return adapt(
            student,
            instantiate(own, _convert_="all"),
            teachers.example_batch(data, 2).inputs,
            lambda num: documents(data, num, config["seed"]),
        ).train()

    adapted: nn.Module = make("student", build)
    return adapted


def make_schedule(config: Mapping[str, Any]) -> Any:
    """What the student's rate follows; None keeps it.

    Raises:
        ValueError: its lengths do not fit the training.
    """
    schedule = instantiate(config["scheduler"]) if config["scheduler"] else None
    if isinstance(schedule, Schedule):
        schedule.over(config["trainer"]["max_epochs"] or 1, 1)
    return schedule


def make_distiller(
    config: Mapping[str, Any],
    student: nn.Module,
    teacher: nn.Module | None,
    example: Batch,
    num_examples: int,
) -> Distiller:
    """The module that distils one into the other, its objective built.

    Args:
        config: the resolved configuration.
        student: it is trained.
        teacher: it is frozen.
        example: a prepared batch.
        num_examples: of the training split.

    Raises:
        ValueError: the loss needs a teacher and there is none, names layers that there are not or
            whose shapes do not fit; a stage, or a group of the optimizer, has nothing to learn.
    """
    optimizer, groups = stated.optimizer_of(config["optimizer"])
    module = Distiller(
        student,
        stated.objective_of(config["loss"]),
        optimizer,
        make_schedule(config),
        teacher,
        groups,
        stated.stages_of(config["loss"]),
    )
    module.build(example, num_examples)
    if config["trainer"]["max_epochs"]:
        module.parameters_for_optimizer()  # a group that takes nothing is told now
    return module


def tell_random_base(config: Mapping[str, Any]) -> None:
    """Warn of an adapter beside weights that nobody trained, and that stay as they are.

    Nothing is known of a model of one's own, which may load its weights itself.
    """
    own = config["student"]
    target = str(own["model"].get("_target_", ""))
    made = target.startswith(f"{PACKAGE}.models.") or target.endswith(".from_config")
    is_random = made or own["model"].get("pretrained") is False
    if own.get("adapter") and is_random and not any(own.get(key) for key in STARTS):
        log.warning(
            "note: student.adapter stands beside random weights, which stay as they are; type "
            "student.checkpoint=FILE, or student.pretraining or student.from_teacher"
        )


def make_data(config: Mapping[str, Any]) -> DataModule:
    """The data set as its configuration states it.

    Raises:
        ConfigError: it is not there, or not as it is stated.
    """
    data: DataModule = make("dataset", lambda: instantiate(config["dataset"], seed=config["seed"]))
    data.channels_last = config["channels_last"]
    return data


def make(part: str, build: Callable[[], Any]) -> Any:
    """`build()`, with what goes wrong told as a mistake in the configuration of `part`."""
    try:
        return build()
    except InstantiationException as error:
        raise ConfigError([f"{part}: {error.__cause__ or error}"]) from error
    except ValueError as error:
        raise ConfigError([f"{part}: {line}" for line in str(error).splitlines()]) from error
