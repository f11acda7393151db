"""The student as ONNX, in float32 and in int8, run by ONNX Runtime.

int8 is static quantisation (Jacob et al. 2018, arXiv:1712.05877): weights per channel, activations
by the ranges seen on training examples, written as quantise/dequantise pairs. Of a language model
it is dynamic, as ONNX Runtime advises for transformers: activations by the range that they have.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.export.onnx_memory import peak_memory_bytes
from kd_research.export.raw_inputs import OUTPUT, input_name
from kd_research.interfaces import Inputs


def session(path: Path) -> Any:
    """ONNX Runtime's session of a file, on the processor, with the threads that torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxStudent(nn.Module):
    """An ONNX file as a module: inputs -> logits (B, C), by ONNX Runtime on the processor.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._path, self._session = path, session(path)

    def forward(self, inputs: Tensor | None = None, **named: Tensor) -> Tensor:
        """Inputs (B, ...), or token tensors by name, as the student takes them."""
        given = named if inputs is None else {self._session.get_inputs()[0].name: inputs}
        (logits,) = self._session.run(None, {name: t.numpy() for name, t in given.items()})
        return torch.from_numpy(logits)

    def peak_memory_bytes(self, inputs: Inputs) -> int:
        """Of one pass over the inputs, counted over the file's operators."""
        name = self._session.get_inputs()[0].name
        return peak_memory_bytes(self._path, next(_feeds([inputs], name)))


def to_onnx(student: nn.Module, example: Inputs, path: Path) -> None:
    """Write the student, in eval mode and on the processor, with a dynamic batch (and length).

    Its inputs are image, features, or the tokens' own names; its output is logits.

    Args:
        student: inputs -> logits.
        example: two prepared examples or more; their number is not kept.
        path: of the file, weights inside.

    Raises:
        ValueError: torch cannot export it; the message has its reason.
    """
    named = example if isinstance(example, dict) else {}
    names = list(named) if isinstance(example, dict) else [input_name(example)]
    positional = () if isinstance(example, dict) else (example,)
    batch = torch.export.Dim("batch")
    shapes: Any = ({0: batch},)
    if named:
        shapes = {name: {0: batch, 1: torch.export.Dim("length")} for name in named}
    write_onnx(student, positional, named, names, [OUTPUT], shapes, path)


def write_onnx(
    model: nn.Module,
    positional: tuple[Any, ...],
    named: dict[str, Any],
    input_names: list[str],
    output_names: list[str],
    shapes: Any,
    path: Path,
) -> None:
    """Write a module as torch's exporter sees it, without the exporter's notes.

    Args:
        model: in eval mode, on the processor.
        positional: its arguments.
        named: its arguments by name.
        input_names: of the file's inputs, in order.
        output_names: of its outputs, in order.
        shapes: which sizes may change, as `torch.onnx.export` takes them.
        path: of the file, weights inside.

    Raises:
        ValueError: torch cannot export it, or only for one size of batch; the message says why.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                positional,
                kwargs=named,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"{type(model).__name__} cannot be exported: {reason}") from error
    assert program is not None
    fixed = [each for each in program.model_proto.graph.input if not _any_batch(each)]
    if fixed:
        raise ValueError(
            f"{type(model).__name__} cannot be exported: its forward makes the size of the batch "
            f"a constant (of {', '.join(each.name for each in fixed)}), as len(tensor) and "
            "int(tensor.shape[0]) do; write tensor.shape[0]"
        )
    import onnx

    temporary = path.with_name(f".{path.name}.partial")
    onnx.save(_lean(program.model_proto), temporary)
    temporary.replace(path)


def _any_batch(taken: Any) -> bool:
    """Whether an input may have any number of rows; torch drops that without a word."""
    return bool(taken.type.tensor_type.shape.dim[0].dim_param)


def _lean(model: Any) -> Any:
    """The model without the exporter's notes of source lines, which would ship with it."""
    graph = model.graph
    for part in [*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    return model


def to_int8(path: Path, batches: Iterable[Inputs], quantised: Path) -> None:
    """Write an int8 twin of an ONNX file.

    Args:
        path: the float32 file.
        batches: prepared training examples, whose ranges the activations get.
        quantised: where the int8 file goes.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the batches out one by one."""

        def __init__(self, name: str):
            self._feeds = _feeds(batches, name)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    name = OnnxStudent(path)._session.get_inputs()[0].name
    with _twin(path, quantised) as (prepared, temporary):
        quantize_static(
            prepared,
            temporary,
            Reader(name),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
        )


def to_dynamic_int8(path: Path, quantised: Path) -> None:
    """Write an int8 twin of an ONNX file, whose activations are quantised as they come.

    Args:
        path: the float32 file.
        quantised: where the int8 file goes.
    """
    from onnxruntime.quantization import quantize_dynamic

    with _twin(path, quantised) as (prepared, temporary):
        quantize_dynamic(prepared, temporary)


@contextmanager
def _twin(path: Path, quantised: Path) -> Iterator[tuple[Path, Path]]:
    """Gives the file made ready for quantisation, and where its twin is to be written."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name(f".{path.name}.prepared")
    temporary = quantised.with_name(f".{quantised.name}.partial")
    try:
        with _quiet():
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            yield prepared, temporary
        temporary.replace(quantised)
    finally:
        prepared.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)


def _feeds(batches: Iterable[Inputs], name: str) -> Iterator[dict[str, Any]]:
    for inputs in batches:
        named = inputs if isinstance(inputs, dict) else {name: inputs}
        yield {key: value.numpy() for key, value in named.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes, which say nothing of the student, off the terminal."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
