"""The teacher: trained once per content on the labels, or loaded; then frozen.

Every trial of every sweep that asks for the same teacher (model, recipe, data, seed) shares one
folder under `outputs/teachers/`, through a lock: the second asker waits, then loads.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from torch import nn

from kd_research.configuration.teacher_content import INHERITED
from kd_research.configuration.trainer_checks import option_defaults
from kd_research.data.module import DataModule
from kd_research.interfaces import Batch
from kd_research.records.locks import alone
from kd_research.records.record import METRICS_NAME, write_json
from kd_research.teacher.checkpoint import WEIGHTS_NAME, load_weights, save_weights
from kd_research.teacher.stated import (
    LABELS,
    built_by,
    model_of,
    objective_of,
    optimizer_of,
    own_dataset,
    own_objective,
    stages_of,
    to_vocabulary,
)
from kd_research.training.continuation import discard, last_epoch, trim_rows
from kd_research.training.distill import Distiller, freeze
from kd_research.training.fit import Row
from kd_research.training.stage_fits import fit_in_stages

log = logging.getLogger(__name__)

RECIPE_VERSION = 4  # raise it when a change of code changes the teacher that a recipe gives
NOT_RECIPE = ("checkpoint", "members", "assistants", "min_accuracy", "run")  # change no weight
# Of the trainer's options, those that say where and how visibly it works.
NOT_TRAINING = ("accelerator", "devices", "strategy", "enable_progress_bar", "profiler")


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher.

    Attributes:
        module: in eval mode, without gradients.
        fingerprint: SHA-256 of its weights.
        path: the file that they came from.
        model: the configuration that `module` was built by, with its view; of several teachers, a
            list.
    """

    module: nn.Module
    fingerprint: str
    path: Path
    model: Any

    @property
    def key(self) -> list[Any]:
        """A JSON value with all that decides its outputs: the same weights may be of two models."""
        return [self.fingerprint, self.model]


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def example_batch(data: DataModule, size: int) -> Batch:
    """The first `size` training examples, prepared, on the CPU."""
    index = torch.arange(min(size, len(data.train)))
    split = data.train.take(index)
    return data.prepare(Batch(split.inputs, split.labels, index))


def build_batch(data: DataModule) -> Batch:
    """A batch to build a loss from: of large vocabularies no more than needed, 128 MB of logits."""
    size = data.batch_size
    if data.has_positions:
        logits = data.train.labels[0].numel() * data.num_classes
        size = min(size, max(2, (1 << 25) // logits))
    return example_batch(data, size)


def obtain(
    config: Mapping[str, Any],
    data: DataModule,
    taught_by: Teacher | None = None,
    before: Callable[[], None] = lambda: None,
) -> Teacher:
    """The configured teacher: loaded from its checkpoint, or from its folder, or trained now.

    Args:
        config: the whole resolved configuration.
        data: the student's data set; the teacher's own too, but for what `teacher.dataset` says.
        taught_by: its own teacher, from which it is distilled by the configuration's `loss`; None
            trains it on the labels alone.
        before: called before it is trained, where it is.

    Raises:
        ValueError: the given checkpoint does not fit the model, or the loss does not.
    """
    recipe, dataset = config["teacher"], config["dataset"]
    own = own_dataset(config)
    if own != dataset:  # as where the transfer set lacks what the teacher learned from
        dataset = own
        data = instantiate(dataset, seed=config["seed"])
        data.channels_last = config["channels_last"]
    seed_everything(recipe["seed"], verbose=False)
    module = model_of(recipe, dataset)
    to_vocabulary("teacher", module, data)
    if config["channels_last"]:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe["checkpoint"] is not None:
        path = Path(recipe["checkpoint"])
        load_weights(module, path)
        return Teacher(freeze(module), fingerprint(module), path, built_by(recipe))
    options, defaults = trainer_options(config), option_defaults()
    augment = dataset.get("augment")
    content = {
        "version": RECIPE_VERSION,
        "recipe": {
            key: value
            for key, value in recipe.items()
            if key not in (*NOT_RECIPE, *INHERITED, "loss") and (key != "view" or value)
        },
        "trainer": {  # what says no more than Lightning's default is as if it were not there
            key: value
            for key, value in options.items()
            if key not in NOT_TRAINING and (key not in defaults or defaults[key] != value)
        },
        "data": data.fingerprint(),
        "batch_size": data.batch_size,
        "augment": augment and {k: v for k, v in augment.items() if v is not None},
        "random_windows": dataset.get("random_windows", False),
        "channels_last": config["channels_last"],
    }
    if taught_by is not None:
        content |= {"loss": config["loss"], "taught_by": taught_by.key}
    elif (objective := own_objective(recipe)) != LABELS:
        content["objective"] = objective
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    directory = Path(config["output_dir"]) / "teachers" / f"{data.name}-{key}"
    path = directory / WEIGHTS_NAME
    if not path.exists() and options["max_epochs"]:
        before()
    directory.mkdir(parents=True, exist_ok=True)
    with alone(directory / "lock", "training the teacher"):
        if path.exists():
            load_weights(module, path)
        else:
            write_json(directory / "content.json", content)
            _train(module, config, data, directory, taught_by, key)
            save_weights(module, path)
            discard(directory)
    return Teacher(freeze(module), fingerprint(module), path, built_by(recipe))


def trainer_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer that the teacher gets: the student's, on one device, but for its own settings."""
    own = config["teacher"]["trainer"]
    return {**config["trainer"], "devices": 1, "strategy": "auto", **own}


def _train(
    module: nn.Module,
    config: Mapping[str, Any],
    data: DataModule,
    directory: Path,
    taught_by: Teacher | None,
    key: str,
) -> None:
    """Train by the recipe, on one device: what the student later sees is its output.

    A training of the same key that was cut off in the directory goes on.
    """
    recipe = config["teacher"]
    scheduler = recipe["scheduler"]
    optimizer, groups = optimizer_of(recipe["optimizer"])
    loss = config["loss"] if taught_by else own_objective(recipe)
    distiller = Distiller(
        module.train(),  # what is loaded pretrained comes in eval mode, and would stay so
        objective_of(loss),
        optimizer,
        instantiate(scheduler) if scheduler else None,
        taught_by.module if taught_by else None,
        groups,
        stages_of(loss),
    )
    distiller.build(build_batch(data), len(data.train))
    distiller.parameters_for_optimizer()  # a group that takes nothing is told now
    rows_path = directory / METRICS_NAME
    trim_rows(rows_path, last_epoch(directory, key))

    def log(row: Row) -> None:
        with rows_path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    seed_everything(recipe["seed"], verbose=False)
    seeded, options = data.with_seed(recipe["seed"]), trainer_options(config)
    try:
        given = (distiller, seeded, options, directory, log, key)
        selection = fit_in_stages(*given, name="teacher")
    except FloatingPointError as error:
        raise ValueError(f"its training failed: {error} (its own are teacher.*)") from error
    write_json(directory / "teacher.json", {"selection": selection.as_dict()})
