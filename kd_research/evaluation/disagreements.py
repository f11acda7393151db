"""Examples of validation on which student and teacher disagree, to look at."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kd_research.data.crops import centre
from kd_research.data.module import DataModule
from kd_research.records.record import SAMPLES_NAME, write_json

NUM_EXAMPLES = 8
MAX_SIDE = 64  # pixels: larger images are made smaller


def write_samples(
    texts: list[dict[str, str | None]],
    data: DataModule,
    predictions: dict[str, Any],
    directory: Path,
) -> None:
    """Write samples.json: what a language model wrote, and where student and teacher disagree."""
    differing = disagreements(data, predictions)
    if texts or differing:
        write_json(directory / SAMPLES_NAME, {"samples": texts, "disagreements": differing})


def disagreements(data: DataModule, predictions: dict[str, Any]) -> list[dict[str, Any]]:
    """Images or texts that the two take for different classes; without a teacher, errors.

    Args:
        data: whose validation split; images of 1 or 3 channels, or tokens with a tokenizer.
        predictions: val_labels, val_student and, with a teacher, val_teacher: (N,) classes.

    Returns:
        Of each: "image" (a data URL of a PNG) or "text", and "label", "student" and "teacher",
        the classes by name; [] of other data.
    """
    if "val_student" not in predictions:  # of many labelled positions an example
        return []
    student, labels = predictions["val_student"], predictions["val_labels"]
    teacher = predictions.get("val_teacher")
    if np.ndim(labels) != 1:
        return []
    places = np.flatnonzero(student != (labels if teacher is None else teacher))[:NUM_EXAMPLES]
    inputs = data.val.take(torch.from_numpy(places)).inputs
    if isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3):
        if data.input_shape is not None:
            inputs = centre(inputs, (data.input_shape[-2], data.input_shape[-1]))
        content = [{"image": url} for url in _images(inputs)]
    elif isinstance(inputs, dict) and "input_ids" in inputs and data.tokenizer is not None:
        content = [{"text": data.tokenizer.decode(row.tolist())} for row in inputs["input_ids"]]
    else:
        return []

    def name(classes: Any, place: int) -> str | None:
        if classes is None:
            return None
        number = int(classes[place])
        return str(data.class_names[number]) if data.class_names else str(number)

    return [
        {
            **shown,
            "label": name(labels, place),
            "student": name(student, place),
            "teacher": name(teacher, place),
        }
        for shown, place in zip(content, places, strict=True)
    ]


def _images(inputs: Tensor) -> list[str]:
    """(B, C, H, W) bytes, or floats between their least and greatest, as PNGs."""
    pixels = inputs.float()
    if len(pixels) and max(pixels.shape[-2:]) > MAX_SIDE:
        share = MAX_SIDE / max(pixels.shape[-2:])
        pixels = F.interpolate(pixels, scale_factor=share, mode="area")
    if inputs.dtype != torch.uint8 and len(pixels):
        low, high = pixels.min(), pixels.max()
        pixels = 255 * (pixels - low) / (high - low).clamp(min=1e-12)
    found = []
    for image in pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy():
        stream = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(stream, "PNG")
        found.append("data:image/png;base64," + base64.b64encode(stream.getvalue()).decode())
    return found
