"""What is exported of a language student beside the usual: transformers' folder, ONNX with a cache.

Each is checked against the module; where there is none, it says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import kd_research.export.cached_form as cached_form
import kd_research.export.causal_lm as causal_lm
from kd_research.data.module import DataModule
from kd_research.evaluation.generation import speeds

CACHED_NAME = "decoder.onnx"
NUM_ROWS = 4  # examples of validation that the forms are checked on


@dataclass(frozen=True)
class TextExport:
    """The forms of a language student that write text.

    Attributes:
        without: form -> why there is none.
        differences: form -> the largest |logit - the module's|: "transformers" (None where it is
            not installed), "onnx_cache".
        tokens_per_second: "module" and "onnx_cache", of decoding at batch 1.
        cached_bytes: of the file with the cache; None: there is none.
    """

    without: dict[str, str]
    differences: dict[str, float | None]
    tokens_per_second: dict[str, float | None]
    cached_bytes: int | None

    @property
    def costs(self) -> dict[str, float]:
        """For export.json."""
        speed = self.tokens_per_second.get("onnx_cache")
        found = {
            "onnx_cache_decode_tokens_per_second": speed,
            "onnx_cache_bytes": self.cached_bytes,
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def lines(self) -> list[str]:
        """What a person is told."""
        found = [f"no {form} form: {why}" for form, why in self.without.items()]
        for form, value in self.differences.items():
            said = "transformers is not installed" if value is None else f"{value:.3g}"
            found.append(f"{form}: max difference {said}")
        for form, speed in self.tokens_per_second.items():
            if speed is not None:
                found.append(f"{form}: {speed:,.0f} tokens a second at batch 1")
        return found


def is_text(data: DataModule) -> bool:
    """Whether the data are a language model's."""
    return data.tokenizer is not None and data.train.labels.ndim == 2


def export_text(student: nn.Module, data: DataModule, stop: int | None, folder: Path) -> TextExport:
    """Write and check the forms.

    Args:
        student: in eval mode, on the processor.
        data: of a language model.
        stop: the token that ends a text; None: there is none.
        folder: takes transformers/ and decoder.onnx.
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
    path = folder / CACHED_NAME
    why = cached_form.to_cached_onnx(student, path)
    if why is not None:
        return TextExport({**without, "onnx_cache": why}, differences, speed, None)
    decoder = cached_form.Decoder(path)
    differences["onnx_cache"] = cached_form.difference(decoder, student, tokens["input_ids"])
    speed["onnx_cache"] = cached_form.tokens_per_second(decoder, tokens["input_ids"][:1])
    return TextExport(without, differences, speed, path.stat().st_size)
