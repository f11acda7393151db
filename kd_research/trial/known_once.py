"""What runs need to know of the same nets: found by the first of them, in `outputs/costs`.

See `evaluation/shared_costs.py`, by whose rules it is found once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_research.data.module import DataModule
from kd_research.data.store import content_key
from kd_research.evaluation import generation, position_sums, positions, texts
from kd_research.evaluation.costs import Costs
from kd_research.evaluation.shared_costs import Measured, SharedCosts, digests, once
from kd_research.generation import decode
from kd_research.interfaces import Batch, Inputs
from kd_research.teacher.other_tokenizer import ReadsText, own_metrics
from kd_research.teacher.stated import built_by
from kd_research.teacher.train import Teacher
from kd_research.training.cost import step_bytes_once
from kd_research.training.distill import Distiller

PATIENCE = 600.0  # seconds for a teacher that another process asks: it would take as long here


def _folder(config: Mapping[str, Any]) -> Path:
    return Path(config["output_dir"]) / "costs"


def _student(config: Mapping[str, Any]) -> Any:
    """What made the student; where its weights come from costs nothing in use."""
    own = config["student"]
    adapter = own.get("adapter")
    return {"model": built_by(own), "adapter": adapter} if adapter else built_by(own)


def shared_costs(
    config: Mapping[str, Any],
    student: nn.Module,
    teacher: Teacher | None,
    example: Callable[[int], Inputs],
    since: float,
) -> SharedCosts:
    """What gives the costs of student and teacher.

    Args:
        config: the whole resolved configuration.
        student: where it is to be measured.
        teacher: likewise.
        example: size -> that many prepared examples, there too.
        since: what was measured before is measured again; seconds since 1970.
    """
    described = {student: _student(config)}
    if teacher:
        described[teacher.module] = teacher.model
    return SharedCosts(_folder(config), example, config["efficiency"], described, since)


def shared_step_bytes(
    config: Mapping[str, Any],
    data: DataModule,
    module: Distiller,
    teacher: Teacher | None,
    batch: Batch,
) -> Measured:
    """`train_step_bytes`, of this student, teacher, loss and batch; see `step_bytes_once`."""
    made = {"student": _student(config), "teacher": teacher and teacher.model}
    made |= {"loss": config["loss"], "data": data.fingerprint()}
    net = teacher.module if teacher else None
    return step_bytes_once(_folder(config), made, module, net, batch)


def text_accuracy(
    config: Mapping[str, Any],
    teacher: Teacher,
    data: DataModule,
    device: torch.device,
    teach: Callable[[], positions.Teach],
) -> float:
    """The teacher's accuracy over the labelled positions of validation.

    Args:
        config: the whole resolved configuration.
        teacher: with a tokenizer of its own it is asked on its own data.
        data: the student's.
        device: the teacher's.
        teach: makes what gives its logits for validation.
    """
    reads = teacher.module if isinstance(teacher.module, ReadsText) else None

    def find() -> Costs:
        if reads:
            own = reads.own_data
            return {"accuracy": positions.accuracy(reads.model, own, own.val)}
        return {"accuracy": positions.share_right(teach(), data, data.val, device)}

    where = reads.own_data if reads else data
    found = of_teacher(config, teacher, where, "accuracy", find, needed=("accuracy",))
    return float(found["accuracy"] or 0)


def metrics_of_reader(config: Mapping[str, Any], teacher: Teacher, reads: ReadsText) -> Costs:
    """What a teacher with a tokenizer of its own is worth on its own tokens; see `own_metrics`."""
    read_test = config["read_test"]
    what = f"metrics, read_test={read_test}"
    return of_teacher(config, teacher, reads.own_data, what, lambda: own_metrics(reads, read_test))


def of_teacher(
    config: Mapping[str, Any],
    teacher: Teacher | None,
    data: DataModule,
    what: str,
    find: Callable[[], dict[str, Any]],
    needed: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What the teacher alone says or is worth, for which every run would ask it again.

    Args:
        config: the whole resolved configuration.
        teacher: whose; there is one where they are asked for.
        data: on which.
        what: tells them from its others.
        find: gives them.
        needed: names of theirs; found anew where one is no number.
    """
    assert teacher is not None
    code = digests(positions, position_sums, texts, generation, decode)
    key = content_key([what, teacher.key, data.fingerprint(), config["channels_last"], code])
    found = once(_folder(config) / f"{key}.json", lambda: (find(), {}), needed, PATIENCE)
    return (found or (find(), {}))[0]
