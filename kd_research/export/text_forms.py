"""What is exported of a language student beside the usual: transformers' folder, ONNX with a cache,
and what its int8 form is worth.

Each is checked against the module; where there is none, it says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import kd_research.export.cached_form as cached_form
import kd_research.export.causal_lm as causal_lm
from kd_research.data.module import DataModule
from kd_research.evaluation.costs import measuring
from kd_research.evaluation.generation import speeds
from kd_research.export.onnx_form import to_dynamic_int8

CACHED = {"onnx_cache": "decoder.onnx", "int8_cache": "decoder.int8.onnx"}  # form -> its file
OF_SPLITS = ("accuracy", "nll", "perplexity", "choice_accuracy")
FAITHFUL = ("teacher_agreement", "teacher_kl", "choice_agreement", "choice_kl")
OF_TEXTS = tuple(
    f"{split}_{each}"
    for split in ("val", "test")
    for each in ("rouge_l", "exact_match", "gsm8k_accuracy", "text_perplexity")
)
MEASURES = (
    *(f"{split}_{each}" for split in ("val", "test") for each in OF_SPLITS),
    *(f"{prefix}{each}" for prefix in ("", "test_") for each in FAITHFUL),
)
SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")
NUM_ROWS = 4  # examples of validation that the forms are checked on


@dataclass(frozen=True)
class TextExport:
    """The forms of a language student that write text.

    Attributes:
        without: form -> why there is none.
        differences: form -> the largest |logit - the module's|: "transformers" (None where it is
            not installed), "onnx_cache", "int8_cache".
        speeds: of "module", "onnx_cache" and "int8_cache", at batch 1: of each
            "prefill_tokens_per_second", a window read at once, and "decode_tokens_per_second".
        bytes: of the files with a cache, by form.
        metrics: what the int8 forms are worth, for export.json: "int8_val_accuracy",
            "int8_cache_test_rouge_l" and so on.
    """

    without: dict[str, str]
    differences: dict[str, float | None]
    speeds: dict[str, dict[str, float | None]]
    bytes: dict[str, int]
    metrics: dict[str, float]

    @property
    def costs(self) -> dict[str, float]:
        """For export.json."""
        found = {f"{form}_bytes": float(size) for form, size in self.bytes.items()}
        for form in self.bytes:
            for name, speed in self.speeds[form].items():
                if speed is not None:
                    found[f"{form}_{name}"] = speed
        return found

    @property
    def lines(self) -> list[str]:
        """What a person is told."""
        found = [f"no {form} form: {why}" for form, why in self.without.items()]
        for form, value in self.differences.items():
            said = "transformers is not installed" if value is None else f"{value:.3g}"
            found.append(f"{form}: max difference {said}")
        for form, found_speeds in self.speeds.items():
            reading, writing = (found_speeds[name] for name in SPEEDS)
            if reading is not None and writing is not None:
                size = f", {self.bytes[form]:,} bytes" if form in self.bytes else ""
                found.append(
                    f"{form}: writes {writing:,.0f} tokens a second at batch 1, "
                    f"reads {reading:,.0f}{size}"
                )
        for form in ("int8", "int8_cache"):
            own = {
                name.removeprefix(f"{form}_"): value
                for name, value in self.metrics.items()
                if name.startswith("int8_cache_") == (form == "int8_cache")
            }
            if own:
                worth = ", ".join(f"{name} {value:.4g}" for name, value in own.items())
                found.append(f"{form}: {worth}")
        return found


def is_text(data: DataModule) -> bool:
    """Whether the data are a language model's."""
    return data.tokenizer is not None and data.train.labels.ndim == 2


def export_text(student: nn.Module, data: DataModule, stop: int | None, folder: Path) -> TextExport:
    """Write and check the forms; what the int8 ones are worth is for the caller to add.

    Args:
        student: in eval mode, on the processor.
        data: of a language model.
        stop: the token that ends a text; None: there is none.
        folder: takes transformers/, decoder.onnx and decoder.int8.onnx.
    """
    assert data.tokenizer is not None
    inputs = data.val.take(torch.arange(min(NUM_ROWS, len(data.val)))).inputs
    assert isinstance(inputs, dict)
    tokens = {"input_ids": inputs["input_ids"]}  # as one document a row
    without: dict[str, str] = {}
    differences: dict[str, float | None] = {}
    speed = {"module": _speeds(student, tokens)}
    theirs = folder / causal_lm.FOLDER
    why = causal_lm.to_transformers(student, data.tokenizer, stop, theirs)
    if why is None:
        differences["transformers"] = causal_lm.difference(student, theirs, tokens)
    else:
        without["transformers"] = why
    sizes: dict[str, int] = {}
    files = {form: folder / name for form, name in CACHED.items()}
    why = cached_form.to_cached_onnx(student, files["onnx_cache"])
    if why is not None:
        without["onnx_cache"] = why
        return TextExport(without, differences, speed, sizes, {})
    to_dynamic_int8(files["onnx_cache"], files["int8_cache"])
    for form, path in files.items():
        decoder = cached_form.CachedStudent(path)
        differences[form] = cached_form.difference(decoder, student, tokens["input_ids"])
        speed[form] = _speeds(decoder, tokens)
        sizes[form] = path.stat().st_size
    return TextExport(without, differences, speed, sizes, {})


def _speeds(model: nn.Module, tokens: dict[str, Tensor]) -> dict[str, float | None]:
    with measuring():
        found = speeds(model, tokens, 1)
    return {name: found[name] for name in SPEEDS}
