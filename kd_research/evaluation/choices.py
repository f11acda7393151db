"""Which of a few words a language model finds likeliest, where one of them is right.

Label-word likelihood (Brown et al. 2020, arXiv:2005.14165, section 2.4): only the words of the
labels are compared, so that a model that was told of a task by examples alone can be measured.

Shapes: N valid positions of a batch, C words, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Choices:
    """What one pass over a split adds up, at the positions whose label is one of the words.

    Args:
        words: (C,) the token ids of the words.
    """

    def __init__(self, words: Sequence[int]):
        self.words = torch.tensor(words)
        self._sums: dict[str, float] = {}

    def add(self, logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> None:
        """Add positions.

        Args:
            logits: (N, V), the student's.
            teacher_logits: (N, V), or None.
            labels: (N,).
        """
        words = self.words.to(labels.device)
        here = torch.isin(labels, words)
        right = (labels[here, None] == words).long().argmax(dim=1)
        student = logits[here][:, words].double().log_softmax(1)
        found = {"count": torch.ones_like(right), "accuracy": student.argmax(1) == right}
        if teacher_logits is not None:
            teacher = teacher_logits[here][:, words].double().log_softmax(1)
            found |= {
                "agreement": teacher.argmax(1) == student.argmax(1),
                "kl": F.kl_div(student, teacher, reduction="none", log_target=True).sum(1),
                "teacher_accuracy": teacher.argmax(1) == right,
            }
        for name, values in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(values.double().sum())

    def metrics(self, split: str, has_teacher: bool) -> dict[str, float | None]:
        """Of "val" or "test": the means over the positions; None without a teacher, or without any.

        val_choice_accuracy, choice_agreement, choice_kl in nats, teacher_val_choice_accuracy.
        """
        prefix, count = "" if split == "val" else "test_", self._sums.get("count", 0.0)

        def mean(name: str) -> float | None:
            return self._sums[name] / count if count and name in self._sums else None

        return {
            f"{split}_choice_accuracy": mean("accuracy"),
            f"{prefix}choice_agreement": mean("agreement") if has_teacher else None,
            f"{prefix}choice_kl": mean("kl") if has_teacher else None,
            f"teacher_{split}_choice_accuracy": mean("teacher_accuracy"),
        }
