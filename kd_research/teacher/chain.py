"""Nets that come before the student: the mean of several teachers, assistants, its own past.

`teacher.members` (name -> what differs from the teacher's recipe: seed, model, checkpoint) makes
the teacher the mean of their probabilities. `teacher.assistants` (name -> model) is a chain: each
is distilled by the run's own `loss` from the one before it, with the teacher's recipe, and the
last teaches the student. That is teacher assistants (TAKD; Mirzadeh et al. 2020,
arXiv:1902.03393) with models between the two in size, and born-again networks (BAN; Furlanello et
al. 2018, arXiv:1805.04770) with models that are all the student's. `student.pretraining` trains the
student on another data set first. Every link is kept by content like a teacher, so that trials and
sweeps share them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import nn

from kd_research.data.module import DataModule
from kd_research.models.ensemble import Ensemble
from kd_research.models.headless import cut_vocabulary
from kd_research.records.record import read_record
from kd_research.teacher import train as teachers
from kd_research.teacher.stated import model_of, own_dataset
from kd_research.training.distill import freeze

log = logging.getLogger(__name__)

CUTS = ("split_seed", "val_fraction", "test_fraction")
PARTS = ("dataset", "optimizer", "scheduler", "trainer", "seed")  # of student.pretraining


def stand_in(config: Mapping[str, Any], data: DataModule) -> nn.Module:
    """The last net of the chain as it is before any training, to try a loss on.

    Args:
        config: the whole resolved configuration.
        data: the student's.
    """
    recipe = config["teacher"]
    members = (recipe.get("members") or {}).values()
    recipes = [{**recipe, **changes} for changes in members] or [recipe]
    if assistants := list((recipe.get("assistants") or {}).values()):
        recipes, members = [{**recipe, "model": assistants[-1]}], ()
    dataset = own_dataset(config)
    nets = [model_of(each, dataset) for each in recipes]
    if data.train.labels.ndim == 2:
        for net in nets:
            cut_vocabulary(net, data.num_classes)
    return Ensemble(nets) if members else nets[0]


def obtain(
    config: Mapping[str, Any], data: DataModule, before: Callable[[], None] = lambda: None
) -> teachers.Teacher:
    """The last teacher of the chain.

    Args:
        config: the whole resolved configuration.
        data: the data set.
        before: called before a net of the chain is trained, where one is.

    Raises:
        ValueError: a checkpoint does not fit its model, or the loss does not fit an assistant.
    """
    recipe = config["teacher"]
    if recipe.get("run") and recipe.get("checkpoint"):
        _check_data(config["dataset"], data, Path(recipe["checkpoint"]))

    def with_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
        return {**config, "teacher": {**recipe, **changes}}

    members = recipe.get("members") or {}
    if members:
        parts = [
            teachers.obtain(with_changes(changes), data, before=before)
            for changes in members.values()
        ]
        module = freeze(Ensemble(part.module for part in parts))
        folder = Path(config["output_dir"]) / "teachers"
        models = [part.model for part in parts]
        teacher = teachers.Teacher(module, teachers.fingerprint(module), folder, models)
    else:
        teacher = teachers.obtain(config, data, before=before)
    for position, model in enumerate((recipe.get("assistants") or {}).values(), start=1):
        # Another seed: a born-again network must not start from its teacher's first weights.
        changes = {"model": model, "checkpoint": None, "seed": recipe["seed"] + position}
        teacher = teachers.obtain(with_changes(changes), data, teacher, before)
    return teacher


def _check_data(dataset: Mapping[str, Any], data: DataModule, run: Path) -> None:
    """What a teacher of an earlier run was trained on, against what its student is measured on.

    Raises:
        ValueError: the same set was cut into splits in another way.
    """
    try:
        record = read_record(run)
    except (OSError, ValueError):  # without a record, as of a run that is still going on
        return
    theirs = record.config.get("dataset") or {}
    known = record.provenance.get("data_fingerprint")
    if known is None or known == data.fingerprint():
        return
    other = [name for name in CUTS if theirs.get(name) != dataset.get(name)]
    if theirs.get("name") == dataset.get("name"):
        if not other:  # a subset, or other classes, of the same splits
            return
        raise ValueError(
            "\n".join(
                f"teacher.run={run} cut its splits by dataset.{name}={theirs.get(name)}, this run "
                f"by {dataset.get(name)}: what it was trained on may be this run's validation or "
                f"test; type dataset.{name}={theirs.get(name)}"
                for name in other
            )
        )
    log.warning(
        "the teacher of %s saw other data than this run has (%s, here %s): see that its training "
        "examples are none of this run's validation or test",
        run,
        theirs.get("name"),
        dataset.get("name"),
    )


def pretrained(config: Mapping[str, Any]) -> teachers.Teacher | None:
    """What the student starts from: itself, trained on the labels of another data set.

    `student.pretraining` is {dataset, optimizer, scheduler, trainer, seed}, each a complete
    configuration but for the trainer's; null starts from random weights. Kept by content like a
    teacher.

    Raises:
        ValueError: a part is missing, or the data set's shape or classes are not the student's.
    """
    own = config["student"].get("pretraining")
    if not own:
        return None
    problems = [f"it lacks {name}; it has {', '.join(PARTS)}" for name in PARTS if name not in own]
    for key in ("input_shape", "num_classes"):
        given, needed = (own.get("dataset") or {}).get(key), config["dataset"].get(key)
        if given != needed:
            problems.append(f"dataset.{key} is {given}, but the student's data has {needed}")
    if problems:
        raise ValueError("\n".join(problems))
    data = instantiate(own["dataset"], seed=own["seed"])
    data.channels_last = config["channels_last"]
    recipe = {key: value for key, value in own.items() if key != "dataset"}
    student = config["student"]
    recipe |= {"model": student["model"], "view": student.get("view"), "checkpoint": None}
    return teachers.obtain({**config, "teacher": recipe, "dataset": own["dataset"]}, data)
