"""What an exported file takes: raw pixels or rows, with the normalisation in its graph.

A file that wanted prepared inputs would be given raw ones, and be wrong without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_research.data.module import DataModule
from kd_research.interfaces import Batch, Inputs

MAX_BYTES = 64 << 20  # of the examples that are laid beside the files
OUTPUT = "logits"


@dataclass(frozen=True)
class RawInputs:
    """How the raw inputs of a data set become those of its student: crop, then x * scale + shift.

    Attributes:
        name: of the input.
        dtype: of the raw values.
        shape: of one raw example.
        crop: top, left, height and width of the part that the student sees; None: all of it.
        scale: per channel, broadcast over an example.
        shift: likewise.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    crop: tuple[int, int, int, int] | None
    scale: Tensor
    shift: Tensor

    def prepare(self, inputs: Tensor) -> Tensor:
        """Raw (B, ...) as the student takes them."""
        if self.crop is not None:
            top, left, height, width = self.crop
            inputs = inputs[:, :, top : top + height, left : left + width]
        return inputs.float() * self.scale + self.shift


class RawStudent(nn.Module):
    """A student of raw inputs, as a module to be exported.

    Args:
        student: of prepared inputs.
        raw: how they are prepared.
    """

    def __init__(self, student: nn.Module, raw: RawInputs):
        super().__init__()
        self.student, self.raw = student, raw

    def forward(self, inputs: Tensor) -> Tensor:
        """Raw (B, ...) -> logits (B, C)."""
        logits: Tensor = self.student(self.raw.prepare(inputs))
        return logits


def raw_inputs(data: DataModule) -> RawInputs | None:
    """What the data set's raw inputs are; None of tokens, which need no preparation.

    Of validation: the training split may be made of the teacher, in float32 and no pixel of it.
    """
    example = data.val.take(torch.arange(1)).inputs
    if isinstance(example, dict):
        return None
    shape = tuple(example.shape[1:])
    crop = None
    if data.input_shape is not None and len(shape) == 3 and shape != data.input_shape:
        height, width = data.input_shape[1:]
        crop = ((shape[1] - height) // 2, (shape[2] - width) // 2, height, width)
    scale, shift = data.normalisation
    name = input_name(example)
    return RawInputs(name, example.dtype, shape, crop, scale, shift)


def input_name(example: Tensor) -> str:
    """What the single input of a file is called."""
    return "image" if example.ndim == 4 else "features"


def take_raw(path: Path, raw: RawInputs) -> None:
    """Put the preparation in front of an ONNX file's graph, whose input is then the raw one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    inner, prepared = graph.input[0].name, "prepared"
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = prepared if name == inner else name
    kind = helper.np_dtype_to_tensor_dtype(torch.zeros((), dtype=raw.dtype).numpy().dtype)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(raw.name, kind, ["batch", *raw.shape]))
    constants = {"scale": raw.scale.numpy(), "shift": raw.shift.numpy()}
    nodes, last = [], raw.name
    if raw.crop is not None:
        top, left, height, width = raw.crop
        constants |= {
            "first_pixel": np.array([top, left]),
            "last_pixel": np.array([top + height, left + width]),
            "both_axes": np.array([2, 3]),
        }
        names = ["first_pixel", "last_pixel", "both_axes"]
        nodes.append(helper.make_node("Slice", [last, *names], ["cropped"]))
        last = "cropped"
    nodes += [
        helper.make_node("Cast", [last], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], [prepared]),
    ]
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    onnx.checker.check_model(model)
    _save(model, path)


def describe(path: Path, facts: Mapping[str, Any]) -> None:
    """Write metadata into an ONNX file: text as it is, anything else as JSON."""
    import onnx

    model = onnx.load(path)
    known = {name: value for name, value in facts.items() if value is not None}
    texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in known.items()}
    onnx.helper.set_model_props(model, texts)
    _save(model, path)


def _save(model: Any, path: Path) -> None:
    import onnx

    temporary = path.with_name(f".{path.name}.partial")
    onnx.save(model, temporary)
    temporary.replace(path)


def facts(data: DataModule, raw: RawInputs | None, normalised: bool) -> dict[str, Any]:
    """What a file's user must know of the data: classes, and how inputs are prepared.

    Mean and deviation are of pixels from 0 to 1 where the raw ones are bytes.
    """
    found: dict[str, Any] = {
        "dataset": data.name,
        "classes": data.class_names or data.num_classes,
        "inputs": "tokens" if raw is None else "normalised" if normalised else "raw",
    }
    if raw is None:
        return found
    unit = 255.0 if raw.dtype == torch.uint8 else 1.0
    deviation = 1 / (raw.scale.double() * unit)
    mean = -raw.shift.double() * deviation
    return {
        **found,
        "mean": [round(value, 6) for value in mean.flatten().tolist()],
        "deviation": [round(value, 6) for value in deviation.flatten().tolist()],
        "dtype": str(raw.dtype).removeprefix("torch."),
        "resize": list(raw.shape),
        "crop": None if raw.crop is None else list(raw.crop[2:]),
    }


def examples(data: DataModule, normalised: bool) -> dict[str, NDArray[Any]]:
    """Inputs, by name, and labels of validation: all, or the first that fit into MAX_BYTES."""
    one = _taken(data, 1, normalised)
    parts = one.values() if isinstance(one, dict) else [one]
    fitting = MAX_BYTES // max(1, sum(part.nbytes for part in parts))
    count = max(1, min(len(data.val), fitting))
    inputs = _taken(data, count, normalised)
    named = inputs if isinstance(inputs, dict) else {input_name(inputs): inputs}
    labels = data.val.labels[:count].cpu().numpy()
    return {**{name: part.numpy() for name, part in named.items()}, "labels": labels}


def _taken(data: DataModule, count: int, normalised: bool) -> Inputs:
    index = torch.arange(count)
    split = data.val.take(index)
    batch = Batch(split.inputs, split.labels, index)
    return data.prepare(batch).inputs if normalised else batch.inputs
