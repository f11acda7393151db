"""How good a student is, position by position: tokens of text, pixels of a picture.

Everything is a ratio of sums over the valid positions that are streamed batch by batch: at no time
is more than one batch's logits held. Intervals are 95 % bootstraps over whole examples (windows of
text, pictures), never over positions, which are not independent of their neighbours.

Shapes: W examples of the split, P positions of each, C classes (V tokens), N valid positions of a
batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.data.module import DataModule
from kd_research.data.sources import Split
from kd_research.evaluation.quality import (
    ECE_BINS,
    MAX_CLASSES,
    NUM_RESAMPLES,
    Evaluation,
    predict,
    scores,
)
from kd_research.interfaces import Batch, Output
from kd_research.losses.positions import count_valid, select
from kd_research.models.capture import Capture

CHUNK = 1 << 22  # logits that are looked at together in double precision: 32 MB
Teach = Callable[[Batch], Tensor]  # a prepared batch, on the device -> the teacher's logits


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

    def bits_per_byte(self, num_bytes: Tensor | None) -> float | None:
        """Bits of NLL for each byte of the text that the labels are.

        Args:
            num_bytes: (W,), the text's bytes, counted from the text; None where it is none.
        """
        if num_bytes is None or not int(num_bytes.sum()):
            return None
        return float(self.by_example["nll"].sum() / (math.log(2) * num_bytes.double().sum()))

    def intervals(self) -> dict[str, list[float]]:
        """95 % bootstrap interval of each mean, over whole examples; all from the same resamples.

        Returns:
            name -> [low, high].
        """
        names = [name for name in self.by_example if name not in ("count", "teacher_wrong")]
        table = torch.stack([self.by_example[name] for name in ("count", *names)], dim=1)
        generator = torch.Generator().manual_seed(0)
        means = []
        for _ in range(NUM_RESAMPLES):
            index = torch.randint(len(table), (len(table),), generator=generator)
            total = table[index].sum(0)
            means.append(total[1:] / total[0].clamp_min(1))
        ends = torch.quantile(torch.stack(means), torch.tensor([0.025, 0.975]).double(), dim=0)
        return {name: ends[:, column].tolist() for column, name in enumerate(names)}

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


@torch.no_grad()
def stream(model: nn.Module, teach: Teach | None, data: DataModule, split: Split) -> Sums:
    """One pass of `model`, in eval mode, over a split.

    Args:
        model: inputs -> logits (B, T, V) or (B, C, H, W).
        teach: what it is compared with; None compares with nothing.
        data: the data.
        split: of it.
    """
    was_training = model.training
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    run, sums = Capture(model), Sums(len(split), data.num_classes)
    for raw in data.batches(split):
        batch = data.prepare(data.transfer_batch_to_device(raw, device, 0))
        if not count_valid(batch.labels):
            continue
        taught = None if teach is None else Output(teach(batch), {})
        num = batch.labels[0].numel()
        output, taught, batch = select(run(batch.inputs), taught, batch)
        logits = None if taught is None else taught.logits
        sums.add(output.logits, logits, batch.labels, batch.index // num)
    model.train(was_training)
    return sums


def accuracy(model: nn.Module, data: DataModule, split: Split) -> float:
    """The share of the split's examples, or of its valid positions, that a model has right."""
    if split.labels.ndim == 1:
        return scores(predict(model, data, split), split.labels.cpu())["accuracy"]
    return stream(model, None, data, split).mean("accuracy")


def evaluate_positions(
    student: nn.Module,
    teach: Callable[[str], Teach] | None,
    data: DataModule,
    read_test: bool = True,
) -> Evaluation:
    """What `quality.evaluate` gives, of data with many labelled positions an example.

    Args:
        student: fitted.
        teach: "val" or "test" -> what gives the teacher's logits for batches of that split; None
            without a teacher.
        data: whose splits.
        read_test: whether its test split is read; else its metrics are left out.

    Beside the metrics there, each also with `test_` in it:

    * val_perplexity: exp of val_nll;
    * val_bits_per_byte: comparable across tokenizers; None where the data are no text;
    * teacher_reverse_kl: KL(student || teacher), nats;
    * acceptance_rate: the mean of sum min(p, q) over classes, the share of this student's drafts
      that its teacher accepts in speculative decoding (Leviathan et al. 2023, arXiv:2211.17192,
      corollary 3.6);
    * teacher_val_nll.

    The predictions are sums of each example: val_count, val_nll, val_accuracy.
    """
    metrics: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    predictions: dict[str, Any] = {}
    for name in ("val", "test") if read_test else ("val",):
        split = data.val if name == "val" else data.test
        found = stream(student, None if teach is None else teach(name), data, split)
        num_bytes = getattr(split, "num_bytes", None)
        metrics |= _metrics(found, name, teach is not None, num_bytes)
        details[name] = {"intervals": found.intervals(), "reliability": found.reliability()}
        if found.num_classes <= MAX_CLASSES:
            details[name]["per_class_accuracy"] = found.per_class_accuracy()
        if found.confusion is not None:
            details[name]["teacher_confusion"] = found.confusion.tolist()
        details[name]["class_names"] = data.class_names and list(data.class_names)
        for key in ("count", "nll", "accuracy"):
            predictions[f"{name}_{key}"] = found.by_example[key].numpy()
    return Evaluation(metrics, details, predictions)


def _metrics(
    found: Sums, name: str, has_teacher: bool, num_bytes: Tensor | None
) -> dict[str, float | None]:
    prefix = "" if name == "val" else "test_"
    nll = found.mean("nll")
    metrics: dict[str, float | None] = {
        f"{name}_accuracy": found.mean("accuracy"),
        f"{name}_nll": nll,
        f"{name}_perplexity": math.exp(min(nll, 700.0)),
        f"{name}_bits_per_byte": found.bits_per_byte(num_bytes),
        f"{name}_ece": found.ece(),
    }
    faithful = ("teacher_agreement", "teacher_kl", "teacher_reverse_kl", "acceptance_rate")
    for key in faithful:
        metrics[f"{prefix}{key}"] = found.mean(key) if has_teacher else None
    metrics |= dict.fromkeys(
        [f"{prefix}copied_error_share", f"teacher_{name}_accuracy", f"teacher_{name}_nll"]
        + [f"{prefix}accuracy_retention"]
    )
    if has_teacher:
        wrong = float(found.by_example["teacher_wrong"].sum())
        copied = float(found.by_example["copied_errors"].sum())
        metrics[f"{prefix}copied_error_share"] = copied / wrong if wrong else None
        metrics[f"teacher_{name}_nll"] = found.mean("teacher_nll")
        metrics[f"teacher_{name}_accuracy"] = own = found.mean("teacher_accuracy")
        if own > 0:
            metrics[f"{prefix}accuracy_retention"] = found.mean("accuracy") / own
    return metrics
