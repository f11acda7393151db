"""The student as a deployable file, checked against the module.

    python -m kd_research.export RUN [RUN ...]

Writes RUN/export/student.onnx, its int8 twin, with --executorch a program for phones, and
RUN/export.json, whose metrics and costs the report shows beside the record's: accuracy against
the bytes that ship. The files take raw pixels, rows or token ids; the normalisation is in their
graph, unless --normalised leaves it to the caller. RUN/export/val.npz has examples to try them on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

import kd_research.trial  # noqa: F401  # before Lightning, so that its imports stay few
from kd_research.configuration import config as configs
from kd_research.data.cuts import stratified
from kd_research.data.module import DataModule
from kd_research.evaluation.costs import model_bytes
from kd_research.export import causal_lm, executorch_form
from kd_research.export.cached_form import CachedStudent
from kd_research.export.card import FILES, model_card, reads_teacher
from kd_research.export.forms import Form, measured
from kd_research.export.onnx_form import OnnxStudent, to_dynamic_int8, to_int8, to_onnx
from kd_research.export.raw_inputs import (
    OUTPUT,
    RawStudent,
    describe,
    examples,
    facts,
    raw_inputs,
    take_raw,
)
from kd_research.export.text_forms import (
    CACHED,
    MEASURES,
    OF_TEXTS,
    TextExport,
    export_text,
    is_text,
)
from kd_research.interfaces import Batch, Inputs
from kd_research.records.record import (
    CONFIG_NAME,
    EXPORT_NAME,
    read_record,
    write_json,
    write_text,
)
from kd_research.teacher.checkpoint import WEIGHTS_NAME, load_weights
from kd_research.tracking import track_export
from kd_research.trial.assembly import Parts
from kd_research.trial.texts import stop_of

__all__ = ["Export", "Form", "export_run", "snippet"]

EXAMPLES_NAME = "val.npz"  # in the export's folder: inputs and labels of validation

NUM_CALIBRATION = 512  # training examples whose activations give the ranges of int8


@dataclass(frozen=True)
class Export:
    """All forms of one run's student: "module" (PyTorch), "onnx", "int8", "executorch"."""

    directory: Path
    forms: dict[str, Form]
    tolerance: float
    num_val: int = 0  # examples of validation
    text: TextExport | None = None  # of a language model

    @property
    def problems(self) -> list[str]:
        """The float32 forms that differ from the module by more than the tolerance."""
        found = {name: form.max_difference for name, form in self.forms.items()}
        of_text = self.text.differences if self.text else {}
        found |= {name: value for name, value in of_text.items() if value is not None}
        return [
            f"{self.directory}: {name} differs from the module by {difference:.3g}, "
            f"more than the tolerance {self.tolerance:g}"
            for name, difference in found.items()
            if not name.startswith("int8") and not difference <= self.tolerance
        ]

    def as_dict(self) -> dict[str, Any]:
        """For export.json: metrics and costs under the names that the report's columns have."""
        metrics: dict[str, float] = {}
        costs: dict[str, float] = {}
        for name, form in self.forms.items():
            if name != "module":
                for split, accuracy in form.accuracies.items():
                    metrics[f"{name}_{split}_accuracy"] = accuracy
                costs[f"{name}_bytes"] = form.bytes
                costs[f"{name}_latency_ms"] = form.latency_ms
                costs[f"{name}_latency_p95_ms"] = form.latency_p95_ms
                if form.peak_memory_bytes is not None:
                    costs[f"{name}_peak_memory_bytes"] = form.peak_memory_bytes
        differences: dict[str, float | None] = {
            name: form.max_difference for name, form in self.forms.items()
        }
        if self.text is not None:
            metrics |= self.text.metrics
            costs |= self.text.costs
            differences |= self.text.differences
        return {
            "metrics": metrics,
            "costs": costs,
            "max_difference": differences,
            "tolerance": self.tolerance,
            "num_threads": torch.get_num_threads(),
        }


def export_run(
    directory: Path, tolerance: float, executorch: bool = False, normalised: bool = False
) -> Export:
    """Export the student of a finished run, check it, and write export.json.

    Args:
        directory: the run's folder: config.yaml and weights.pt.
        tolerance: of the float32 forms' logits; the result says which exceed it.
        normalised: whether the files take prepared inputs, not raw ones.
        executorch: also make a program for phones.

    Raises:
        ConfigError: the run cannot be built.
        ValueError: it has no weights, or torch cannot export its student.
    """
    config: Any = OmegaConf.to_container(configs.load(directory / CONFIG_NAME), resolve=True)
    parts = Parts(config)
    load_weights(parts.student, directory / WEIGHTS_NAME)
    student = parts.student.cpu().eval()
    folder = directory / "export"
    folder.mkdir(exist_ok=True)
    example = parts.example(2).inputs
    path = folder / "student.onnx"
    to_onnx(student, example, path)
    files = [path, folder / "student.int8.onnx"]
    if is_text(parts.data):
        to_dynamic_int8(path, files[1])
    else:
        to_int8(path, _calibration(parts.data), files[1])
    raw = raw_inputs(parts.data)
    preparing = None if normalised else raw
    known = {**facts(parts.data, raw, normalised), **_numbers(directory)}
    for file in files:
        if preparing is not None:
            take_raw(file, preparing)
        describe(file, known)
    _write_examples(folder / EXAMPLES_NAME, examples(parts.data, normalised))
    if parts.data.tokenizer is not None:
        parts.data.tokenizer.save(str(folder / "tokenizer.json"))
    made: dict[str, tuple[nn.Module, int]] = {"module": (student, model_bytes(student))}
    for name, file in zip(("onnx", "int8"), files, strict=True):
        made[name] = (OnnxStudent(file), file.stat().st_size)
    if executorch:
        file = folder / "student.pte"
        if preparing is None:
            executorch_form.to_executorch(student, example, file)
        else:
            inputs = parts.data.val.take(torch.zeros(2, dtype=torch.int64)).inputs
            executorch_form.to_executorch(RawStudent(student, preparing), inputs, file)
        names = tuple(example) if isinstance(example, dict) else ()
        form = executorch_form.ExecutorchStudent(file, names)
        made["executorch"] = (form, file.stat().st_size)
        files.append(file)
    runs = int(config["efficiency"]["num_runs"])
    forms = {
        name: measured(
            *(model, size, student, parts.data, runs),
            takes_raw=preparing is not None and name != "module",
        )
        for name, (model, size) in made.items()
    }
    text = None
    if is_text(parts.data):
        if parts.teacher:
            parts.teacher.module.cpu()
        text = export_text(student, parts.data, stop_of(config, parts.data), folder)
        text = _worth_of_int8(parts, made["int8"][0], text, folder)
    found = Export(directory, forms, tolerance, len(parts.data.val), text)
    written = found.as_dict()
    _write_cards(directory, folder, text, written, _is_distilled(parts))
    write_json(directory / EXPORT_NAME, written)
    track_export(config, directory, files, {**written["metrics"], **written["costs"]})
    return found


def _worth_of_int8(parts: Parts, int8: nn.Module, text: TextExport, folder: Path) -> TextExport:
    """What the int8 form says of the data's tokens, and what the one with a cache writes."""
    found = parts.evaluate_positions(int8)
    metrics = {f"int8_{name}": found.metrics.get(name) for name in MEASURES}
    if "int8_cache" in text.bytes:
        parts.add_texts(found, CachedStudent(folder / CACHED["int8_cache"]))
        metrics |= {f"int8_cache_{name}": found.metrics.get(name) for name in OF_TEXTS}
    return replace(text, metrics={k: value for k, value in metrics.items() if value is not None})


def _calibration(data: DataModule) -> Iterator[Inputs]:
    """Training examples of all classes in their shares, prepared, without augmentation."""
    count = min(NUM_CALIBRATION, len(data.train))
    if data.train.labels.ndim == 1:  # a sorted folder's first examples are of one class
        chosen = stratified(data.train, count, seed=0)
    else:
        chosen = torch.linspace(0, len(data.train) - 1, count).round().long()
    for start in range(0, count, data.batch_size):
        index = chosen[start : start + data.batch_size]
        split = data.train.take(index)
        yield data.prepare(Batch(split.inputs, split.labels, index)).inputs


def _numbers(directory: Path) -> dict[str, Any]:
    """What the run's record says of the student, for a file's metadata."""
    try:
        record = read_record(directory)
    except (FileNotFoundError, ValueError):  # weights that were brought from elsewhere
        return {}
    names = ("val_accuracy", "test_accuracy", "teacher_agreement", "num_params")
    commit = (record.provenance.get("git") or {}).get("commit")
    return {**{name: record.value(name) for name in names}, "seed": record.seed, "commit": commit}


def _write_cards(
    directory: Path,
    folder: Path,
    text: TextExport | None,
    written: Mapping[str, Any],
    is_distilled: bool,
) -> None:
    """README.md, where the run has a record, in the folder and in transformers'."""
    try:
        record = read_record(directory)
    except (FileNotFoundError, ValueError):  # weights that were brought from elsewhere
        return
    if record.status != "completed":
        return
    theirs = folder / causal_lm.FOLDER
    places: list[tuple[Path, str | None, Mapping[str, Any] | None]] = [(folder, None, written)]
    if text is not None and "transformers" not in text.without:
        places.append((theirs, causal_lm.USAGE, None))
    for place, usage, exported in places:
        found = {path.name for path in place.iterdir()}
        files = {name: what for name, what in FILES.items() if name in found}
        card = model_card(record, files, usage, exported, is_distilled=is_distilled)
        write_text(place / "README.md", card)


def _is_distilled(parts: Parts) -> bool:
    """Whether the student learnt from its teacher: from its outputs, or from its text."""
    reads = reads_teacher(parts.config["loss"].get("text") or {})
    needs = parts.module.objective.needs_teacher or reads
    return parts.trains and parts.teacher is not None and needs


def _write_examples(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **content)
    temporary.replace(path)


def snippet(found: Export) -> str:
    """Eight lines that run the file by ONNX Runtime alone, and give the recorded accuracy."""
    folder = found.directory / "export"
    with np.load(folder / EXAMPLES_NAME) as content:
        count, whole = len(content["labels"]), found.num_val
    accuracy = f"val_accuracy {found.forms['onnx'].accuracies['val']:.4f}"
    said = accuracy if count == whole else f"of {count} of {whole} examples; {accuracy} of all"
    return f"""\
import numpy, onnxruntime
val = dict(numpy.load({str(folder / EXAMPLES_NAME)!r}))
labels, right = val.pop("labels"), 0
session = onnxruntime.InferenceSession({str(folder / "student.onnx")!r})
for k in range(0, len(labels), 256):
    (logits,) = session.run(["{OUTPUT}"], {{name: rows[k : k + 256] for name, rows in val.items()}})
    right += (logits.argmax(-1) == labels[k : k + 256]).sum()
print(right / (labels >= 0).sum())  # {said}"""
