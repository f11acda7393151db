"""Labelled positions: tokens of text, pixels of a picture. Each becomes an example of its own.

Where every example has one label nothing happens. Where it has many, the valid ones (their label
is not -100) are selected out of the logits before any loss or metric sees them, so that a loss
needs to know nothing of text or pictures.

Shapes: B batch, P positions of an example (T tokens, or H * W pixels), C classes (V tokens of the
vocabulary), N valid positions of the batch.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from kd_research.interfaces import Batch, Output

IGNORED = -100  # the label of a position that is not learnt, as in torch's cross-entropy

Teacher = TypeVar("Teacher", Output, None, Output | None)


def has_positions(logits: Tensor) -> bool:
    """Whether an example has many labelled positions."""
    return logits.ndim > 2


def classes_last(logits: Tensor) -> Tensor:
    """(B, T, V) as it is; (B, C, H, W), as torch's cross-entropy has pictures, as (B, H, W, C)."""
    return logits if logits.ndim == 3 else logits.movedim(1, -1)


def select(
    student: Output, teacher: Teacher, batch: Batch, any_vocabulary: bool = False
) -> tuple[Output, Teacher, Batch]:
    """The valid positions as examples; what has one label an example comes back as it is.

    Features stay what they are: they belong to whole examples, and `valid` says which positions
    of theirs count.

    Args:
        student: logits (B, C), (B, T, V) or (B, C, H, W).
        teacher: the same, or None.
        batch: labels (B,), (B, T) or (B, H, W).
        any_vocabulary: whether the teacher's classes may be others than the student's.

    Returns:
        The outputs with logits (N, C); the batch with labels (N,), index (N,): example * P +
        position, and `valid`, the labels' shape.

    Raises:
        ValueError: logits and labels do not have the same positions, student and teacher not the
            same classes, or no position is valid.
    """
    if not has_positions(student.logits):
        return student, teacher, batch
    labels = batch.labels
    check_positions(student.logits, labels)
    if teacher is not None and not any_vocabulary:
        check_vocabularies(student.logits, teacher.logits)
    valid = labels != IGNORED
    if not valid.any():
        raise ValueError(
            f"all {labels.numel()} labels of a batch are {IGNORED}, which is never learnt: the "
            f"examples {batch.index.tolist()[:8]}; leave such examples out of the data"
        )
    student = student._replace(logits=classes_last(student.logits)[valid])
    if teacher is not None:
        teacher = teacher._replace(logits=classes_last(teacher.logits)[valid])
    return (
        student,
        teacher,
        batch._replace(labels=labels[valid], index=position_index(batch)[valid], valid=valid),
    )


def position_index(batch: Batch) -> Tensor:
    """The labels' shape, int64: example * P + position."""
    num = batch.labels[0].numel() if len(batch.labels) else 0
    offsets = torch.arange(num, device=batch.index.device)
    return (batch.index[:, None] * num + offsets).view(batch.labels.shape)


def count_valid(labels: Tensor) -> int:
    """How many examples, or valid positions, there are.

    Args:
        labels: (B,), or (B, C) of one mixed label an example; (B, T) or (B, H, W) whole numbers.
    """
    if labels.ndim == 1 or labels.is_floating_point():
        return len(labels)
    return int((labels != IGNORED).sum())


def check_positions(logits: Tensor, labels: Tensor) -> None:
    """Whether a model's logits are one row of classes for each label.

    Args:
        logits: (B, C), (B, T, V) or (B, C, H, W).
        labels: whole numbers.

    Raises:
        ValueError: they are not.
    """
    shape = tuple(logits.shape)
    found = shape[:-1] if logits.ndim <= 3 else (shape[0], *shape[2:])
    if found != tuple(labels.shape):
        raise ValueError(
            f"the data's labels are {tuple(labels.shape)}, but the model's logits {shape} are not "
            "one row of classes for each: one label an example needs (B, C), text (B, T, V), "
            "pictures (B, C, H, W); choose a model for this kind of data"
        )


def check_vocabularies(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Whether student and teacher name the same classes at each position.

    Raises:
        ValueError: they do not.
    """
    if student_logits.shape != teacher_logits.shape:
        place = -1 if student_logits.ndim == 3 else 1
        raise ValueError(
            f"the student's logits are {tuple(student_logits.shape)}, the teacher's "
            f"{tuple(teacher_logits.shape)}: vocabularies of {student_logits.shape[place]} and "
            f"{teacher_logits.shape[place]}; a loss on logits needs one vocabulary and the same "
            "positions: give both the data set's tokenizer, or type loss=uld"
        )
