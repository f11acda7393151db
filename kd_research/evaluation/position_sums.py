"""Sums over labelled positions, from which everything that is measured of them is a ratio.

Intervals are 95 % bootstraps over whole examples (windows of text, pictures), never over positions,
which are not independent of their neighbours.

Shapes: W examples of the split, C classes (V tokens), N valid positions of a batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_research.evaluation.quality import ECE_BINS, MAX_CLASSES, resamples

CHUNK = 1 << 22  # logits that are looked at together in double precision: 32 MB


class Sums:
    """What one pass over a split adds up.

    Args:
        num_examples: W.
        num_classes: C.

    Attributes:
        by_example: name -> (W,) float64, sums over the example's valid positions; "count" is how
            many these are.
        bins: (3, 15) float64: count, confidence and right answers by the student's confidence.
        classes: (2, C) int64: positions of each class and the right ones among them.
        confusion: (C, C) int64, the teacher's class the row; None without a teacher or above 200
            classes.
    """

    def __init__(self, num_examples: int, num_classes: int):
        self.num_examples, self.num_classes = num_examples, num_classes
        self.by_example: dict[str, Tensor] = {}
        self.bins = torch.zeros(3, ECE_BINS, dtype=torch.float64)
        self.classes = torch.zeros(2, num_classes, dtype=torch.int64)
        self.confusion: Tensor | None = None

    def add(
        self, logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, of: Tensor
    ) -> None:
        """Add positions.

        Args:
            logits: (N, C), the student's.
            teacher_logits: (N, C), or None.
            labels: (N,).
            of: (N,) int64, which example each belongs to.
        """
        of = of.cpu()
        for name, values in _values(logits, teacher_logits, labels).items():
            sums = self.by_example.setdefault(
                name, torch.zeros(self.num_examples, dtype=torch.float64)
            )
            sums.index_add_(0, of, values.double().cpu())
        confidence, predicted = logits.float().softmax(1).max(1)
        right = predicted == labels
        place = ((confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1).cpu()
        rows = (torch.ones_like(confidence), confidence, right)
        for total, row in zip(self.bins, rows, strict=True):
            total += torch.bincount(place, row.double().cpu(), ECE_BINS)
        self.classes[0] += torch.bincount(labels.cpu(), minlength=self.num_classes)
        self.classes[1] += torch.bincount(labels[right].cpu(), minlength=self.num_classes)
        if teacher_logits is not None and self.num_classes <= MAX_CLASSES:
            pairs = (teacher_logits.argmax(1) * self.num_classes + predicted).cpu()
            counts = torch.bincount(pairs, minlength=self.num_classes**2)
            old = 0 if self.confusion is None else self.confusion
            self.confusion = old + counts.view(self.num_classes, -1)

    def mean(self, name: str) -> float:
        """The mean of `name` over all valid positions."""
        return float(self.by_example[name].sum() / self.by_example["count"].sum())

    def bits_per_byte(self, num_bytes: Tensor | None, name: str = "nll") -> float | None:
        """Bits of NLL for each byte of the text that the labels are.

        Args:
            num_bytes: (W,), the text's bytes, counted from the text; None where it is none.
            name: "nll", or "teacher_nll".
        """
        if num_bytes is None or not int(num_bytes.sum()):
            return None
        return float(self.by_example[name].sum() / (math.log(2) * num_bytes.double().sum()))

    def intervals(self, num_bytes: Tensor | None = None) -> dict[str, list[float]]:
        """95 % bootstrap interval of each mean, over whole examples; all from the same resamples.

        Args:
            num_bytes: (W,), of the text; None where it is none.

        Returns:
            name -> [low, high]; also of the perplexity, and of the bits per byte where there are.
        """
        names = [name for name in self.by_example if name not in ("count", "teacher_wrong")]
        sums = [self.by_example[name] for name in ("count", *names)]
        of_text = num_bytes is not None and int(num_bytes.sum()) > 0
        sums.append(num_bytes.double() if num_bytes is not None else sums[0])
        table = torch.stack(sums, dim=1)
        total = torch.cat([table[index].sum(1) for index in resamples(len(table))])
        bits = total[:, 1 + names.index("nll")] / (math.log(2) * total[:, -1].clamp_min(1))
        means = torch.cat([total[:, 1:-1] / total[:, :1].clamp_min(1), bits[:, None]], dim=1)
        ends = torch.quantile(means, torch.tensor([0.025, 0.975]).double(), dim=0)
        found = {name: ends[:, column].tolist() for column, name in enumerate(names)}
        if "copied_errors" in found:  # of the teacher's errors, as the metric
            del found["copied_errors"]
            found["copied_error_share"] = self._copied(table.shape[0])
        found["perplexity"] = [math.exp(min(end, 700.0)) for end in found["nll"]]
        return found | ({"bits_per_byte": ends[:, -1].tolist()} if of_text else {})

    def _copied(self, num: int) -> list[float]:
        """The interval of the share of the teacher's errors that the student makes too."""
        wrong, copied = self.by_example["teacher_wrong"], self.by_example["copied_errors"]
        shares = [
            copied[index].sum(1) / wrong[index].sum(1).clamp_min(1) for index in resamples(num)
        ]
        ends = torch.quantile(torch.cat(shares), torch.tensor([0.025, 0.975]).double())
        return [float(end) for end in ends]

    def ece(self) -> float:
        """Expected calibration error, 15 equal bins."""
        count, confidence, right = self.bins
        return float((confidence - right).abs().sum() / count.sum())

    def reliability(self) -> dict[str, list[float]]:
        """Mean confidence, accuracy and count of the bins that have positions."""
        count, confidence, right = self.bins[:, self.bins[0] > 0]
        return {
            "confidence": (confidence / count).tolist(),
            "accuracy": (right / count).tolist(),
            "count": count.long().tolist(),
        }

    def per_class_accuracy(self) -> list[float | None]:
        """Of each class the share of its positions that is right; None without positions."""
        return [right / count if count else None for count, right in self.classes.T.tolist()]


def _values(logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
    """Name -> (N,): what is summed; in double precision, as divergences are small."""
    size = max(1, CHUNK // logits.shape[1])
    parts = [
        _chunk(
            logits[start : start + size],
            None if teacher_logits is None else teacher_logits[start : start + size],
            labels[start : start + size],
        )
        for start in range(0, len(labels), size)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _chunk(logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
    student = logits.double().log_softmax(1)
    right = student.argmax(1) == labels
    values = {
        "count": torch.ones_like(labels),
        "accuracy": right,
        "nll": F.nll_loss(student, labels, reduction="none"),
    }
    if teacher_logits is not None:
        teacher = teacher_logits.double().log_softmax(1)
        same = teacher.argmax(1) == student.argmax(1)
        teacher_right = teacher.argmax(1) == labels
        values |= {
            "teacher_agreement": same,
            "teacher_kl": F.kl_div(student, teacher, reduction="none", log_target=True).sum(1),
            "teacher_reverse_kl": F.kl_div(teacher, student, reduction="none", log_target=True).sum(
                1
            ),
            "acceptance_rate": torch.minimum(student, teacher).exp().sum(1),
            "teacher_accuracy": teacher_right,
            "teacher_nll": F.nll_loss(teacher, labels, reduction="none"),
            "teacher_wrong": ~teacher_right,
            "copied_errors": same & ~teacher_right,
        }
    return values
