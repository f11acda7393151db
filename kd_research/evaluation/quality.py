"""How good a student is, and how faithful to its teacher: whole splits, each example once.

Intervals are 95 % percentile bootstraps over the examples (Efron and Tibshirani 1993, chapter
13): they say how far a value depends on which examples were drawn, not on the seed.

Shapes: N examples of the split, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from kd_research.data.module import DataModule
from kd_research.data.sources import Split
from kd_research.models.capture import Capture
from kd_research.records.record import EVALUATION_NAME, PREDICTIONS_NAME, write_json

ECE_BINS = 15  # Guo et al. 2017, arXiv:1706.04599, section 2
NUM_RESAMPLES = 1000
AT_ONCE = 1 << 14  # examples of resamples: they stay in the cache
MAX_CLASSES = 200  # of a confusion that is written: above, it is larger than the predictions


@torch.no_grad()
def predict(model: nn.Module, data: DataModule, split: Split) -> Tensor:
    """The model's logits for all of `split`, (N, C) float32 on the CPU, in eval mode."""
    was_training = model.training
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    run = Capture(model)
    logits = [
        run(data.prepare(data.transfer_batch_to_device(batch, device, 0)).inputs).logits
        for batch in data.batches(split)
    ]
    model.train(was_training)
    return torch.cat(logits).float().cpu()


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (a fraction), NLL (nats per example) and ECE (15 equal bins) of (N, C) logits."""
    classes = logits.shape[1]
    return {
        "accuracy": float(multiclass_accuracy(logits, labels, classes, average="micro")),
        "nll": float(F.cross_entropy(logits, labels)),
        "ece": _ece(logits, labels),
    }


def reliability(logits: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """The reliability diagram: mean confidence, accuracy and count of the bins with examples.

    Args:
        logits: (N, C).
        labels: (N,).
    """
    confidence, predicted = logits.softmax(1).max(1)
    right = (predicted == labels).double()
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1  # (low, high], as in ECE
    count = torch.bincount(bins, minlength=ECE_BINS)
    kept = count > 0
    return {
        "confidence": (torch.bincount(bins, confidence.double(), ECE_BINS) / count)[kept].tolist(),
        "accuracy": (torch.bincount(bins, right, ECE_BINS) / count)[kept].tolist(),
        "count": count[kept].tolist(),
    }


def _ece(logits: Tensor, labels: Tensor) -> float:
    """Guo et al. 2017, equation 3; torchmetrics puts a confidence of 1 into a sixteenth bin."""
    bins = reliability(logits, labels)
    parts = zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
    return sum(count * abs(sure - right) for count, sure, right in parts) / len(labels)


def per_class_accuracy(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Of each of the C classes the share of its examples that is right; None without examples."""
    classes = logits.shape[1]
    count = torch.bincount(labels, minlength=classes)
    right = torch.bincount(labels[logits.argmax(1) == labels], minlength=classes)
    shares = (right.double() / count).tolist()
    return [share if number else None for share, number in zip(shares, count.tolist(), strict=True)]


def faithfulness(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, float | None]:
    """How far the student does as its teacher does.

    Args:
        logits: (N, C), the student's.
        teacher_logits: (N, C).
        labels: (N,).

    Returns:
        teacher_agreement: the share of examples with the same class from both;
        teacher_kl: KL(teacher || student) at temperature 1, nats per example;
        copied_error_share: of the teacher's errors, the share in which the student gives the very
        same wrong class; None where the teacher makes none.
    """
    student, teacher = logits.argmax(1), teacher_logits.argmax(1)
    wrong = teacher != labels
    return {
        "teacher_agreement": float((student == teacher).double().mean()),
        "teacher_kl": float(_kl(logits, teacher_logits).mean()),
        "copied_error_share": (
            float((student == teacher)[wrong].double().mean()) if wrong.any() else None
        ),
    }


def _kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """(N,) KL(teacher || student), in double precision: it is small where they agree."""
    student, teacher = logits.double().log_softmax(1), teacher_logits.double().log_softmax(1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def resamples(num: int) -> Iterator[Tensor]:
    """(R, N) which examples each of R bootstrap resamples has, a few resamples at a time.

    Always the same ones for as many examples.
    """
    generator = torch.Generator().manual_seed(0)
    at_once = max(1, AT_ONCE // num)
    for start in range(0, NUM_RESAMPLES, at_once):
        size = (min(at_once, NUM_RESAMPLES - start), num)
        yield torch.randint(num, size, generator=generator)


def intervals(values: dict[str, Tensor]) -> dict[str, list[float]]:
    """95 % bootstrap interval of each mean; all from the same resamples.

    Args:
        values: name -> (N,), one value per example.

    Returns:
        name -> [low, high].
    """
    table = torch.stack([value.double() for value in values.values()], dim=1)
    means = torch.cat([table[index].mean(1) for index in resamples(len(table))])
    ends = torch.quantile(means, torch.tensor([0.025, 0.975]).double(), dim=0)
    return {name: ends[:, column].tolist() for column, name in enumerate(values)}


@dataclass(frozen=True)
class Evaluation:
    """What a finished run is worth.

    Attributes:
        metrics: for the record; what needs a teacher is None without one.
        details: for evaluation.json, by split: intervals, reliability, per_class_accuracy, the
            teacher's own of these, class_names (None where there are none), and teacher_confusion,
            (C, C) counts, the teacher's class the row and the student's the column.
        predictions: for predictions.npz: (N,) arrays val_labels, val_student, val_teacher and
            test_labels, ...: the classes.
    """

    metrics: dict[str, float | None]
    details: dict[str, Any]
    predictions: dict[str, Any]

    def write(self, directory: Path) -> None:
        """Write evaluation.json and predictions.npz, each to a temporary name first."""
        write_json(directory / EVALUATION_NAME, self.details)
        temporary = directory / f".{PREDICTIONS_NAME}.partial"
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **self.predictions)
        temporary.replace(directory / PREDICTIONS_NAME)


def evaluate(
    student: nn.Module,
    teach: Callable[[str], Tensor] | None,
    data: DataModule,
    read_test: bool = True,
) -> Evaluation:
    """Everything about a finished run, on validation and, this once and if asked, on test.

    Args:
        student: fitted.
        teach: "val" or "test" -> the teacher's logits for that split, (N, C) on the CPU; None
            without a teacher.
        data: whose splits.
        read_test: whether its test split is read; else its metrics are left out.

    The metrics are val_accuracy, val_nll, val_ece, teacher_agreement, teacher_kl,
    copied_error_share, teacher_val_accuracy, accuracy_retention, and test_accuracy, test_nll,
    test_ece, test_teacher_agreement, test_teacher_kl, test_copied_error_share,
    teacher_test_accuracy, test_accuracy_retention.
    """
    metrics: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    predictions: dict[str, Any] = {}
    for name in ("val", "test") if read_test else ("val",):
        split = data.val if name == "val" else data.test
        prefix = "" if name == "val" else "test_"
        labels = split.labels.cpu()
        logits = predict(student, data, split)
        teacher_logits = teach(name) if teach is not None else None
        metrics |= {f"{name}_{key}": value for key, value in scores(logits, labels).items()}
        metrics |= {
            f"{prefix}teacher_agreement": None,
            f"{prefix}teacher_kl": None,
            f"{prefix}copied_error_share": None,
            f"teacher_{name}_accuracy": None,
            f"{prefix}accuracy_retention": None,
        }
        predictions[f"{name}_labels"] = labels.numpy()
        predictions[f"{name}_student"] = logits.argmax(1).numpy()
        if teacher_logits is not None:
            found = faithfulness(logits, teacher_logits, labels)
            metrics |= {f"{prefix}{key}": value for key, value in found.items()}
            teacher_accuracy = scores(teacher_logits, labels)["accuracy"]
            metrics[f"teacher_{name}_accuracy"] = teacher_accuracy
            if teacher_accuracy > 0:
                accuracy = metrics[f"{name}_accuracy"] or 0.0
                metrics[f"{prefix}accuracy_retention"] = accuracy / teacher_accuracy
            predictions[f"{name}_teacher"] = teacher_logits.argmax(1).numpy()
        details[name] = _details(logits, teacher_logits, labels)
        details[name]["class_names"] = data.class_names and list(data.class_names)
    return Evaluation(metrics, details, predictions)


def _details(logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> dict[str, Any]:
    student = logits.argmax(1)
    values = {
        "accuracy": student == labels,
        "nll": F.cross_entropy(logits, labels, reduction="none"),
    }
    found: dict[str, Any] = {
        "reliability": reliability(logits, labels),
        "per_class_accuracy": per_class_accuracy(logits, labels),
    }
    if teacher_logits is not None:
        teacher, classes = teacher_logits.argmax(1), logits.shape[1]
        values["teacher_agreement"] = student == teacher
        values["teacher_kl"] = _kl(logits, teacher_logits)
        found["teacher_reliability"] = reliability(teacher_logits, labels)
        found["teacher_per_class_accuracy"] = per_class_accuracy(teacher_logits, labels)
        if classes <= MAX_CLASSES:
            pairs = torch.bincount(teacher * classes + student, minlength=classes**2)
            found["teacher_confusion"] = pairs.view(classes, classes).tolist()
    return {"intervals": intervals(values), **found}
