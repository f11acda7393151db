"""The model card of an exported student: README.md, with the numbers of its record.

In the form of the Hugging Face Hub (Mitchell et al. 2019, arXiv:1810.03993, is where cards come
from). What was not measured is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_research.records.measures import COSTS, METRICS, OF_STAGES, TRAINING_COSTS
from kd_research.records.record import RunRecord

FILES = {
    "student.onnx": "float32, by ONNX Runtime",
    "student.int8.onnx": "int8",
    "student.pte": "a program for phones, by ExecuTorch",
    "decoder.onnx": "float32, with the cache of keys and values as inputs and outputs",
    "decoder.int8.onnx": "the same in int8",
    "tokenizer.json": "the tokenizer",
    "model.safetensors": "the weights",
    "config.json": "the architecture",
    "generation_config.json": "the token that ends a text",
    "tokenizer_config.json": "how transformers loads the tokenizer",
    "transformers": "a folder that transformers loads",
    "val.npz": "examples of validation",
}
FORMS = {
    "onnx": "`student.onnx`",
    "int8": "`student.int8.onnx`",
    "onnx_cache": "`decoder.onnx`",
    "int8_cache": "`decoder.int8.onnx`",
    "executorch": "`student.pte`",
}
OF_TEACHER = [name for name in METRICS if not name.startswith("val_")]


def model_card(
    record: RunRecord,
    files: Mapping[str, str],
    usage: str | None,
    exported: Mapping[str, Any] | None = None,
    *,
    is_distilled: bool,
) -> str:
    """The card's text.

    Args:
        record: of the completed run.
        files: name -> what it is.
        usage: lines of Python that load the student; None: none are given.
        exported: metrics, costs and max_difference of the files; None: nothing is said of them.
        is_distilled: whether it learnt from a teacher.
    """
    config = record.config
    name = str((config.get("dataset") or {}).get("name"))
    text = record.value("val_perplexity") is not None
    has_choices = record.value("val_choice_accuracy") is not None
    front = ["library_name: transformers"] if usage else []
    front += ["pipeline_tag: text-generation"] if text else []
    front += ["tags:", *(["- knowledge-distillation"] if is_distilled else [])]
    front += ["- kd_research", "datasets:", f"- {name}"]
    trains = bool((config.get("trainer") or {}).get("max_epochs"))
    made = "distilled on" if is_distilled else "trained on" if trains else "on"
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# A student {made} {name}",
        _made(config, record),
        "## Numbers\n\n"
        f"Of one run, seed {record.seed}: n = 1. Accuracies are fractions, nll and kl are nats."
        + (" `accuracy` is of tokens." if text else "")
        + (" `choice_accuracy` is of label words." if has_choices else "")
        + "\n\n"
        + _quality(record),
        "## Costs\n\n" + _costs(record),
        "## Training costs\n\n" + _training(record),
        "## Files\n\n" + _table(("file", "what"), [(f"`{k}`", v) for k, v in files.items()]),
    ]
    if exported:
        parts.insert(-1, "## Forms\n\n" + _forms(record, exported))
    if usage:
        parts.append(f"## Use\n\n```python\n{usage}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _made(config: Mapping[str, Any], record: RunRecord) -> str:
    """How the student was made."""
    student, teacher, loss = (config.get(key) or {} for key in ("student", "teacher", "loss"))
    epochs = (config.get("trainer") or {}).get("max_epochs")
    git = record.provenance.get("git") or {}
    rows = [
        ("student", _model(student.get("model"))),
        ("begins with", _beginning(student)),
        ("adapter", _model(student.get("adapter"))),
        ("teacher", _model(teacher.get("model"))),
        *(_learnt(loss) if epochs else [("loss terms", "none: it was not trained")]),
        ("epochs", epochs),
        ("epoch chosen", record.selection.get("epoch") if epochs else None),
        ("chosen by", record.selection.get("metric") if epochs else None),
        ("data fingerprint", record.provenance.get("data_fingerprint")),
        ("teacher fingerprint", record.provenance.get("teacher_fingerprint")),
        ("commit of kd_research", git.get("commit")),
    ]
    return _table(("what", "value"), [(k, str(v)) for k, v in rows if v is not None])


def _beginning(student: Mapping[str, Any]) -> str | None:
    """What the weights were before the training; None of random ones."""
    if checkpoint := student.get("checkpoint"):
        return "/".join(Path(str(checkpoint)).parts[-2:])
    stated = ("from_teacher", "pretraining")
    return next((f"student.{key}" for key in stated if student.get(key)), None)


def reads_teacher(text: Mapping[str, Any]) -> bool:
    """Whether `loss.text` is what the teacher wrote, once, before the fit."""
    return str(text.get("_target_", "")).endswith(".TeacherText")


def _learnt(loss: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What it learnt from: the terms, the numbers of the loss, and text that was drawn for it."""
    text = loss.get("text") or {}
    of_teacher = reads_teacher(text)
    labels = "the teacher's text" if of_teacher else "the labels"
    terms = [f"cross-entropy with {labels}"] if loss.get("ce_weight") else []
    stated = (loss.get("terms") or {}).items()
    # A term of the weight 0 is not built.
    terms += [name for name, term in stated if (term or {}).get("weight") != 0]
    rows: list[tuple[str, Any]] = [
        (f"stage before: {name}", f"{', '.join(stage['weights'])}, {_length(stage)}")
        for name, stage in (loss.get("stages") or {}).items()
        if any(stage["weights"].values())
    ]
    rows.append(("loss terms", ", ".join(terms)))
    rows += [(key, value) for key, value in loss.items() if isinstance(value, int | float | str)]
    if text:
        who = "teacher, once, in place of the data's" if of_teacher else "student, during the fit"
        rows.append(("text", f"written by the {who}"))
        parts = {**text, **(text.get("generation") or {})}
        parts |= {key: text[key]["_target_"] for key in ("beside", "replay") if text.get(key)}
        rows += [
            (f"text: {key}", value)
            for key, value in parts.items()
            if key != "_target_" and isinstance(value, int | float | str)
        ]
    return rows


def _length(stage: Mapping[str, Any]) -> str:
    of, where = stage.get("of"), "of the training" if stage.get("within") else "beside it"
    counted = "" if of is None else f" to {of} of the training"
    return f"{stage['epochs']} epochs{counted}, {where}"


def _model(model: Any) -> str | None:
    if not model:
        return None
    settings = {k: v for k, v in model.items() if k != "_target_" and not isinstance(v, dict)}
    settings = {k: Path(v).name if str(v).startswith("/") else v for k, v in settings.items()}
    said = ", ".join(f"{key}={value}" for key, value in settings.items() if value is not None)
    return f"{model.get('_target_')} ({said})"


def _quality(record: RunRecord) -> str:
    rows = []
    for key in (name.removeprefix("val_") for name in METRICS if name.startswith("val_")):
        names = [f"val_{key}", f"test_{key}", f"teacher_val_{key}", f"teacher_test_{key}"]
        rows.append((key, *(_shown(record.value(each)) for each in names)))
    for key in OF_TEACHER:
        rows.append((key, _shown(record.value(key)), _shown(record.value(f"test_{key}")), "", ""))
    header = ("", "validation", "test", "teacher, validation", "teacher, test")
    return _table(header, [row for row in rows if any(row[1:])])


def _costs(record: RunRecord) -> str:
    rows = [
        (key, _shown(record.value(key)), _shown(record.value(f"teacher_{key}"))) for key in COSTS
    ]
    return _table(("", "student", "teacher"), [row for row in rows if any(row[1:])])


def _training(record: RunRecord) -> str:
    stages = [key for key in {**record.metrics, **record.costs} if re.fullmatch(OF_STAGES, key)]
    rows = [(key, _shown(record.value(key))) for key in (*TRAINING_COSTS, *stages)]
    return _table(("", "of this run"), [row for row in rows if row[1]])


def _forms(record: RunRecord, exported: Mapping[str, Any]) -> str:
    """What the files are worth beside the module, a column each."""
    found: dict[str, dict[str, float]] = {}
    for key, value in {**exported["metrics"], **exported["costs"]}.items():
        name = max((each for each in FORMS if key.startswith(f"{each}_")), key=len)
        found.setdefault(name, {})[key.removeprefix(f"{name}_")] = value
    forms = [name for name in FORMS if name in found]
    module = {**record.metrics, **record.costs, "bytes": record.value("model_bytes")}
    rows = []
    for key in dict.fromkeys(key for name in forms for key in found[name]):
        own = [_shown(found[name].get(key)) for name in forms]
        rows.append((key, _shown(module.get(key)), *own))
    differences = [_shown(exported["max_difference"].get(name)) for name in forms]
    rows.append(("largest difference of a logit", "0", *differences))
    return _table(("", "module", *(FORMS[name] for name in forms)), rows)


def _shown(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10 else f"{value:.4g}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell for cell in line) + " |" for line in lines)
