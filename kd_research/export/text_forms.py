"""What is exported of a language student beside the usual: transformers' folder, ONNX with a cache,
and what its int8 form is worth.

Each is checked against the module; where there is none, it says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import kd_research.export.cached_form as cached_form
import kd_research.export.causal_lm as causal_lm
from kd_research.data.module import DataModule
from kd_research.evaluation.generation import speeds
from kd_research.export.onnx_form import to_dynamic_int8

CACHED = {"onnx_cache": "decoder.onnx", "int8_cache": "decoder.int8.onnx"}  # form -> its file
MEASURES = ("accuracy", "nll", "perplexity", "choice_accuracy")  # of the int8 form, of both splits
FAITHFUL = ("teacher_agreement", "teacher_kl", "choice_agreement", "choice_kl")
NUM_ROWS = 4  # examples of validation that the forms are checked on


@dataclass(frozen=True)
class TextExport:
    """The forms of a language student that write text.

    Attributes:
        without: form -> why there is none.
        differences: form -> the largest |logit - the module's|: "transformers" (None where it is
            not installed), "onnx_cache", "int8_cache".
        tokens_per_second: "module", "onnx_cache" and "int8_cache", of decoding at batch 1.
        bytes: of the files with a cache, by form.
        int8: what `student.int8.onnx` is worth: "val_accuracy", "test_teacher_kl" and so on.
    """

    without: dict[str, str]
    differences: dict[str, float | None]
    tokens_per_second: dict[str, float | None]
    bytes: dict[str, int]
    int8: dict[str, float]

    @property
    def costs(self) -> dict[str, float]:
        """For export.json."""
        found = {f"{form}_bytes": float(size) for form, size in self.bytes.items()}
        for form in self.bytes:
            speed = self.tokens_per_second[form]
            if speed is not None:
                found[f"{form}_decode_tokens_per_second"] = speed
        return found

    @property
    def metrics(self) -> dict[str, float]:
        """For export.json."""
        return {f"int8_{name}": value for name, value in self.int8.items()}

    @property
    def lines(self) -> list[str]:
        """What a person is told."""
        found = [f"no {form} form: {why}" for form, why in self.without.items()]
        for form, value in self.differences.items():
            said = "transformers is not installed" if value is None else f"{value:.3g}"
            found.append(f"{form}: max difference {said}")
        for form, speed in self.tokens_per_second.items():
            if speed is not None:
                size = f", {self.bytes[form]:,} bytes" if form in self.bytes else ""
                found.append(f"{form}: {speed:,.0f} tokens a second at batch 1{size}")
        if self.int8:
            worth = ", ".join(f"{name} {value:.4g}" for name, value in self.int8.items())
            found.append(f"int8: {worth}")
        return found


def is_text(data: DataModule) -> bool:
    """Whether the data are a language model's."""
    return data.tokenizer is not None and data.train.labels.ndim == 2


def export_text(
    student: nn.Module,
    data: DataModule,
    stop: int | None,
    folder: Path,
    int8: Mapping[str, float | None],
) -> TextExport:
    """Write and check the forms.

    Args:
        student: in eval mode, on the processor.
        data: of a language model.
        stop: the token that ends a text; None: there is none.
        folder: takes transformers/, decoder.onnx and decoder.int8.onnx.
        int8: every measure of the int8 student.
    """
    assert data.tokenizer is not None
    inputs = data.val.take(torch.arange(min(NUM_ROWS, len(data.val)))).inputs
    assert isinstance(inputs, dict)
    tokens = {"input_ids": inputs["input_ids"]}  # as one document a row
    without: dict[str, str] = {}
    differences: dict[str, float | None] = {}
    speed = {"module": speeds(student, tokens, 1)["decode_tokens_per_second"]}
    theirs = folder / causal_lm.FOLDER
    why = causal_lm.to_transformers(student, data.tokenizer, stop, theirs)
    if why is None:
        differences["transformers"] = causal_lm.difference(student, theirs, tokens)
    else:
        without["transformers"] = why
    names = [f"{split}_{each}" for split in ("val", "test") for each in MEASURES]
    names += [f"{prefix}{each}" for prefix in ("", "test_") for each in FAITHFUL]
    worth = {name: value for name in names if (value := int8.get(name)) is not None}
    sizes: dict[str, int] = {}
    files = {form: folder / name for form, name in CACHED.items()}
    why = cached_form.to_cached_onnx(student, files["onnx_cache"])
    if why is not None:
        without["onnx_cache"] = why
        return TextExport(without, differences, speed, sizes, worth)
    to_dynamic_int8(files["onnx_cache"], files["int8_cache"])
    for form, path in files.items():
        decoder = cached_form.Decoder(path)
        differences[form] = cached_form.difference(decoder, student, tokens["input_ids"])
        speed[form] = cached_form.tokens_per_second(decoder, tokens["input_ids"][:1])
        sizes[form] = path.stat().st_size
    return TextExport(without, differences, speed, sizes, worth)
