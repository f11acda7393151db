"""What a configuration states of a net and its training, built: model, objective, optimizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from kd_research.configuration.view_checks import channels_of
from kd_research.data.module import DataModule
from kd_research.losses.objective import Objective
from kd_research.models.headless import cut_vocabulary
from kd_research.models.view import View
from kd_research.training.distill import OptimizerFactory
from kd_research.training.groups import Groups, check_settings
from kd_research.training.stages import Stage

log = logging.getLogger(__name__)

WEIGHTS = ("weights", "ce_weight")  # what the objective has to know of a stage
LABELS: Mapping[str, Any] = {"ce_weight": 1.0, "terms": {}}  # the objective of most teachers


def objective_of(loss: Mapping[str, Any]) -> Objective:
    """The objective that a configuration's `loss` describes."""
    parts = {
        "terms": loss["terms"],
        "ce_weight": loss["ce_weight"],
        "stages": {
            name: {key: stage[key] for key in WEIGHTS if key in stage}
            for name, stage in (loss.get("stages") or {}).items()
        },
    }
    return Objective(**instantiate(parts, _convert_="all"))


def stages_of(loss: Mapping[str, Any]) -> dict[str, Stage]:
    """The stages that a configuration's `loss` states: all but their weights."""
    return {
        name: Stage(**instantiate({k: v for k, v in stage.items() if k not in WEIGHTS}))
        for name, stage in (loss.get("stages") or {}).items()
    }


def own_objective(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a teacher that nobody teaches is trained on: `teacher.loss`, or the labels.

    Raises:
        ValueError: it needs a teacher itself.
    """
    stated = recipe.get("loss") or LABELS
    own = {key: stated[key] for key in LABELS}
    if own != LABELS and (asking := objective_of(own)).needs_teacher:
        raise ValueError(
            f"teacher.loss has {', '.join(asking.terms)}, which needs a teacher of its own; type "
            "loss@teacher.loss=ce, label_smoothing or tf_kd; a teacher that is taught is one of "
            "teacher.assistants"
        )
    return own


def own_dataset(config: Mapping[str, Any]) -> Any:
    """The configuration of the data that the teacher learns from: the student's, with changes."""
    changes = config["teacher"].get("dataset") or {}
    if "vocab_size" in changes:
        changes = {"num_classes": changes["vocab_size"], **changes}
    return OmegaConf.to_container(OmegaConf.merge(config["dataset"], changes))


def model_of(stated: Mapping[str, Any], dataset: Mapping[str, Any]) -> nn.Module:
    """The net that a teacher's or student's configuration states, with its view of the examples.

    Args:
        stated: `model`, and perhaps `view`.
        dataset: of the configuration; a model that has an `input_shape` gets that of the view.

    Raises:
        ValueError: an example is not such that it could be seen so.
    """
    settings, model = stated.get("view"), stated["model"]
    if not settings:
        plain: nn.Module = instantiate(model)
        return plain
    shape = dataset.get("input_shape")
    if shape is None:
        raise ValueError(f"a view is of images or tables; dataset {dataset.get('name')} is text")
    rest = {key: value for key, value in settings.items() if key != "columns"}
    if (names := settings.get("columns")) is not None:
        rest["channels"] = channels_of(names, dataset)
    view = View(**rest)
    seen = view.shape(shape)
    module: nn.Module = instantiate(
        {**model, "input_shape": seen} if "input_shape" in model else model
    )
    view.put_before(module)
    return module


def built_by(stated: Mapping[str, Any]) -> Any:
    """What of a net's configuration decides, beside its weights, what it says: model and view."""
    return {**stated["model"], "view": stated["view"]} if stated.get("view") else stated["model"]


def optimizer_of(stated: Mapping[str, Any]) -> tuple[OptimizerFactory, Groups]:
    """What makes the optimizer that a configuration's `optimizer` states, and its groups.

    Raises:
        ValueError: a group is none, or sets what the optimizer has not.
    """
    groups: Groups = stated.get("groups") or {}
    factory = instantiate({key: value for key, value in stated.items() if key != "groups"})
    check_settings(groups, factory)
    return factory, groups


def to_vocabulary(who: str, module: nn.Module, data: DataModule) -> None:
    """Cut what a decoder says of more tokens than the data have, and tell it.

    Raises:
        ValueError: it has fewer.
    """
    if data.train.labels.ndim != 2:
        return
    found = cut_vocabulary(module, data.num_classes)
    if found is not None:
        log.warning(
            "the %s has %d tokens, the data %d: its other logits are left out",
            who,
            found,
            data.num_classes,
        )
