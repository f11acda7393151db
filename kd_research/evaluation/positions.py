"""How good a student is, position by position: tokens of text, pixels of a picture.

Everything is a ratio of sums over the valid positions (`position_sums.py`) that are streamed batch
by batch: at no time is more than one batch's logits held.

Shapes: W examples of the split, P positions of each, C classes (V tokens), N valid positions of a
batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.data.module import DataModule
from kd_research.data.sources import Split
from kd_research.evaluation.choices import Choices
from kd_research.evaluation.position_sums import Sums
from kd_research.evaluation.quality import MAX_CLASSES, Evaluation, predict, scores
from kd_research.interfaces import Batch, Output
from kd_research.losses.positions import count_valid, select
from kd_research.models.capture import Capture

Teach = Callable[[Batch], Tensor]  # a prepared batch, on the device -> the teacher's logits


@torch.no_grad()
def stream(
    model: nn.Module,
    teach: Teach | None,
    data: DataModule,
    split: Split,
    choices: Choices | None = None,
) -> Sums:
    """One pass of `model`, in eval mode, over a split.

    Args:
        model: inputs -> logits (B, T, V) or (B, C, H, W).
        teach: what it is compared with; None compares with nothing.
        data: the data.
        split: of it.
        choices: adds up the same positions, as far as their label is a choice.
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
        if choices is not None:
            choices.add(output.logits, logits, batch.labels)
    model.train(was_training)
    return sums


def accuracy(model: nn.Module, data: DataModule, split: Split) -> float:
    """The share of the split's examples, or of its valid positions, that a model has right."""
    if split.labels.ndim == 1:
        return scores(predict(model, data, split), split.labels.cpu())["accuracy"]
    return stream(model, None, data, split).mean("accuracy")


@torch.no_grad()
def share_right(teach: Teach, data: DataModule, split: Split, device: torch.device) -> float:
    """The share of the split's valid positions that a teacher has right.

    Args:
        teach: gives its logits.
        data: the data.
        split: of it.
        device: where `teach` takes its batches.
    """
    right = count = 0
    for raw in data.batches(split):
        batch = data.prepare(data.transfer_batch_to_device(raw, device, 0))
        if not count_valid(batch.labels):
            continue
        output, _, batch = select(Output(teach(batch), {}), None, batch)
        right += int((output.logits.argmax(1) == batch.labels).sum())
        count += len(batch.labels)
    return right / count


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
    * val_choice_accuracy, choice_agreement, choice_kl and teacher_val_choice_accuracy
      (`choices.py`), where the data have label words;
    * teacher_val_nll, teacher_val_perplexity and teacher_val_bits_per_byte.

    The predictions are sums of each example: val_count, val_nll, val_accuracy.
    """
    metrics: dict[str, float | None] = {}
    details: dict[str, Any] = {}
    predictions: dict[str, Any] = {}
    for name in ("val", "test") if read_test else ("val",):
        split = data.val if name == "val" else data.test
        choices = Choices(data.choices) if data.choices else None
        found = stream(student, None if teach is None else teach(name), data, split, choices)
        if choices is not None:
            metrics |= choices.metrics(name, teach is not None)
        metrics |= _metrics(found, name, teach is not None, split.num_bytes)
        intervals = found.intervals(split.num_bytes)
        details[name] = {"intervals": intervals, "reliability": found.reliability()}
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
        metrics[f"teacher_{name}_nll"] = taught = found.mean("teacher_nll")
        metrics[f"teacher_{name}_perplexity"] = math.exp(min(taught, 700.0))
        metrics[f"teacher_{name}_bits_per_byte"] = found.bits_per_byte(num_bytes, "teacher_nll")
        metrics[f"teacher_{name}_accuracy"] = own = found.mean("teacher_accuracy")
        if own > 0:
            metrics[f"{prefix}accuracy_retention"] = found.mean("accuracy") / own
    return metrics
