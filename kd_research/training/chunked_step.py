"""A step whose logits are never all there: for vocabularies that are large.

The nets give their states before the head; the head and the losses are computed for a few
positions at a time (`losses/chunks.py`), the teacher's logits of these from its own states or from
the cached outputs.

Shapes: B batch, T positions, N valid positions of the batch, V tokens of the vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_research.interfaces import Batch, Inputs, Output
from kd_research.losses.chunks import Teach, can_be_chunked, chunked
from kd_research.losses.objective import Objective
from kd_research.losses.positions import IGNORED, position_index
from kd_research.models.headless import Headless
from kd_research.soft_targets.store import SoftTargets
from kd_research.training.memory import give_freed_back

log = logging.getLogger(__name__)

WHOLE = 1 << 26  # logits of a batch up to which they are all there: 256 MB in float32
CHUNK = 1 << 21  # logits of a chunk: 8 MB in float32, of which about ten live at once
TIDY = 4  # chunks after which freed memory is given back


class ChunkedStep:
    """Computes the objective of a batch of text in chunks.

    Args:
        student: in its two parts.
        teacher: in its two parts; None where the objective needs none.
        num_classes: V.
    """

    def __init__(self, student: Headless, teacher: Headless | None, num_classes: int):
        self.student, self.teacher, self.num_classes = student, teacher, num_classes
        self._chunks = 0  # so far

    def wanted(self, batch: Batch) -> bool:
        """Whether the batch has so many logits."""
        return batch.labels.numel() * self.num_classes > WHOLE

    def __call__(
        self,
        objective: Objective,
        batch: Batch,
        cached: SoftTargets | None,
        run_teacher: Callable[[Inputs, Tensor], Output],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective, (), and its parts.

        Args:
            objective: of means over positions.
            batch: labels (B, T).
            cached: the store of the teacher's outputs; None asks the teacher.
            run_teacher: inputs, rows -> the teacher's output for the rows that are not cached.
        """
        valid = batch.labels != IGNORED
        hidden = self.student.hidden(batch.inputs)[valid]
        chosen = batch._replace(labels=batch.labels[valid], index=position_index(batch)[valid])
        teach = self._teach(batch, valid, cached, run_teacher) if objective.asks_teacher else None
        assert self.student.head is not None
        size = max(1, CHUNK // self.num_classes)
        before = self._tidy if hidden.device.type == "cpu" else lambda: None
        return chunked(objective, hidden, self.student.head, teach, chosen, size, before)

    def _tidy(self) -> None:
        """Every few chunks, give freed memory back: else it piles up beside what is in use."""
        self._chunks += 1
        if self._chunks % TIDY == 0:
            give_freed_back()

    @torch.no_grad()
    def _teach(
        self,
        batch: Batch,
        valid: Tensor,
        cached: SoftTargets | None,
        run_teacher: Callable[[Inputs, Tensor], Output],
    ) -> Teach:
        if cached is not None:
            stored, (example, place) = cached, valid.nonzero(as_tuple=True)
            at_once = max(1, WHOLE // (4 * batch.labels[0].numel() * self.num_classes))
            rows = stored.rows(batch.index, lambda some: run_teacher(batch.inputs, some), at_once)
            return lambda part: stored.encoding.logits_at(rows, example[part], place[part])
        assert self.teacher is not None
        states, head = self.teacher.hidden(batch.inputs)[valid], self.teacher.head
        assert head is not None

        @torch.no_grad()
        def teach(part: slice) -> Tensor:
            logits: Tensor = head(states[part])
            return logits

        return teach


def chunked_step(
    student: nn.Module, teacher: nn.Module | None, objective: Objective, batch: Batch, classes: int
) -> ChunkedStep | None:
    """The step in chunks, where nets and objective allow it; None, and a line in the log, if not.

    Args:
        student: to be trained.
        teacher: None where the objective needs none.
        objective: built.
        batch: a few examples of text, to compare the nets in two parts with the whole.
        classes: V.
    """
    if not can_be_chunked(objective):
        log.info("all logits of a batch are there at once: a loss compares them, or wants features")
        return None
    parts = {"student": Headless(student)}
    if teacher is not None:
        parts["teacher"] = Headless(teacher)
    for who, part in parts.items():
        problem = part.problem(batch.inputs)
        if problem is not None:
            log.warning("all logits of a batch are there at once: of the %s, %s", who, problem)
            return None
    return ChunkedStep(parts["student"], parts.get("teacher"), classes)
