"""What one form of a student is worth: its accuracy, its speed, how far it is from the module.

Streamed batch by batch: the logits of a split of text would fill the memory.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import nn

from kd_research.data.module import DataModule
from kd_research.data.sources import Split
from kd_research.evaluation.costs import latencies, measuring, peak_memory_bytes
from kd_research.export.onnx_form import OnnxStudent
from kd_research.interfaces import Inputs, Output
from kd_research.losses.positions import count_valid, select
from kd_research.models.capture import Capture


@dataclass(frozen=True)
class Form:
    """One form of the student.

    Attributes:
        bytes: of its file.
        accuracies: "val" and "test", a fraction, measured on this form.
        latency_ms: median at batch 1, with p95; on the processor, with the run's threads.
        max_difference: the largest |logit - the module's| on validation.
        peak_memory_bytes: of one example, counted tensor by tensor; None where it is not known.
    """

    bytes: int
    accuracies: dict[str, float]
    latency_ms: float
    latency_p95_ms: float
    max_difference: float
    peak_memory_bytes: int | None = None


def measured(
    model: nn.Module, size: int, student: nn.Module, data: DataModule, runs: int, takes_raw: bool
) -> Form:
    """Measure a form.

    Args:
        model: the form; the student itself, too.
        size: bytes of its file.
        student: in eval mode, on the processor.
        data: whose splits.
        runs: timed.
        takes_raw: whether the form takes inputs as the split has them, not prepared ones.
    """
    other = None if model is student else student
    val, difference = _compared(model, other, data, data.val, takes_raw)
    test, _ = _compared(model, None, data, data.test, takes_raw)
    one = data.val.take(torch.arange(1))
    batch = next(iter(data.batches(data.val.part(torch.arange(1)))))
    inputs = one.inputs if takes_raw else data.prepare(batch).inputs
    run = Capture(model)
    with measuring(), torch.no_grad():
        times = latencies(lambda: run(inputs), runs, torch.device("cpu"))
    return Form(
        bytes=size,
        accuracies={"val": val, "test": test},
        latency_ms=1000 * statistics.median(times),
        latency_p95_ms=1000 * torch.tensor(times).quantile(0.95).item(),
        max_difference=difference,
        peak_memory_bytes=_peak_memory_bytes(model, inputs, is_student=other is None),
    )


def _peak_memory_bytes(model: nn.Module, inputs: Inputs, is_student: bool) -> int | None:
    if isinstance(model, OnnxStudent):
        return model.peak_memory_bytes(inputs)
    return peak_memory_bytes(model, inputs) if is_student else None


@torch.no_grad()
def _compared(
    model: nn.Module, other: nn.Module | None, data: DataModule, split: Split, takes_raw: bool
) -> tuple[float, float]:
    """The share of right classes, of examples or of their labelled positions; the difference."""
    run, run_other = Capture(model), None if other is None else Capture(other)
    right = count = 0
    difference = 0.0
    for raw in data.batches(split):
        batch = data.prepare(raw)
        logits = run(raw.inputs if takes_raw else batch.inputs).logits.float()
        if run_other is not None:
            expected = run_other(batch.inputs).logits.float()
            difference = max(difference, float((logits - expected).abs().max()))
        if count_valid(raw.labels):
            found, _, chosen = select(Output(logits, {}), None, raw)
            right += int((found.logits.argmax(1) == chosen.labels).sum())
            count += len(chosen.labels)
    return right / count, difference
