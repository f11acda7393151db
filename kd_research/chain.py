"""Teachers of several steps: the mean of several, and assistants between teacher and student.

`teacher.members` (name -> what differs from the teacher's recipe: seed, model, checkpoint) makes
the teacher the mean of their probabilities. `teacher.assistants` (name -> model) is a chain: each
is distilled by the run's own `loss` from the one before it, with the teacher's recipe, and the
last teaches the student. That is teacher assistants (TAKD; Mirzadeh et al. 2020,
arXiv:1902.03393) with models between the two in size, and born-again networks (BAN; Furlanello et
al. 2018, arXiv:1805.04770) with models that are all the student's. Every link is kept by content
like a teacher, so that trials and sweeps share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_research import teacher as teachers
from kd_research.data.module import DataModule
from kd_research.distill import freeze
from kd_research.models.ensemble import Ensemble


def obtain(config: Mapping[str, Any], data: DataModule) -> teachers.Teacher:
    """The last teacher of the chain.

    Args:
        config: the whole resolved configuration.
        data: the data set.

    Raises:
        ValueError: a checkpoint does not fit its model, or the loss does not fit an assistant.
    """
    recipe = config["teacher"]

    def with_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
        return {**config, "teacher": {**recipe, **changes}}

    members = recipe.get("members") or {}
    if members:
        parts = [teachers.obtain(with_changes(changes), data) for changes in members.values()]
        module = freeze(Ensemble(part.module for part in parts))
        folder = Path(config["output_dir"]) / "teachers"
        teacher = teachers.Teacher(module, teachers.fingerprint(module), folder)
    else:
        teacher = teachers.obtain(config, data)
    for position, model in enumerate((recipe.get("assistants") or {}).values(), start=1):
        # Another seed: a born-again network must not start from its teacher's first weights.
        changes = {"model": model, "checkpoint": None, "seed": recipe["seed"] + position}
        teacher = teachers.obtain(with_changes(changes), data, taught_by=teacher)
    return teacher
