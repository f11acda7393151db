"""The memory of an ONNX file in one pass, counted as a module's is: tensor by tensor.

Counted over the operators that ONNX Runtime makes of the file's, of which it fuses some, and folds
what is constant. The same file gives the same number on every machine with the same release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

PROVIDERS = ["CPUExecutionProvider"]
SAME_BYTES = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}  # name their input anew


def peak_memory_bytes(path: Path, inputs: Mapping[str, NDArray[Any]]) -> int:
    """Weights, inputs and the most bytes of other tensors that live at once.

    A tensor lives from its operator to the last one that reads it; those that the file gives back
    live to the end. A kernel's own workspace is not in it, nor are the tensors of the branches of
    an `If` or `Loop`.

    Args:
        path: of the file, weights inside.
        inputs: what it is to read.
    """
    from onnx import numpy_helper

    model = _as_run(path)
    graph = model.graph
    weights = sum(numpy_helper.to_array(each).nbytes for each in graph.initializer)
    read = sum(each.nbytes for each in inputs.values())
    given_back = [each.name for each in graph.output]
    return weights + read + _peak(graph.node, _sizes(model, inputs), given_back)


def _as_run(path: Path) -> Any:
    """The model after ONNX Runtime has made its graph simpler, but for what is of one processor."""
    import onnx
    import onnxruntime

    with TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        options = _options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(path, options, providers=PROVIDERS)
        return onnx.load(written)


def _options(level: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    return options


def _sizes(model: Any, inputs: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """The bytes of each tensor that an operator gives: all of them run, none fused away."""
    import onnx
    import onnxruntime

    graph = model.graph
    given_back = [each.name for each in graph.output]
    made = [name for node in graph.node for name in node.output if name]
    others = [onnx.ValueInfoProto(name=name) for name in made if name not in {*given_back}]
    graph.output.extend(others)
    options = _options(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    content = model.SerializeToString()
    run = onnxruntime.InferenceSession(content, options, providers=PROVIDERS).run
    del graph.output[len(given_back) :]
    return {name: array.nbytes for name, array in zip(made, run(made, {**inputs}), strict=True)}


def _peak(nodes: Sequence[Any], sizes: Mapping[str, int], given_back: Sequence[str]) -> int:
    """The most bytes at once of what the operators give.

    Args:
        nodes: in the order in which they run.
        sizes: the bytes of what they give, by name.
        given_back: names that live to the end.
    """
    owner: dict[str, str] = {}  # of a tensor that names another's bytes, that one
    for node in nodes:
        if node.op_type in SAME_BYTES:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
    last: dict[str, int] = {}
    for place, node in enumerate(nodes):
        for name in (*node.output, *node.input):
            last[owner.get(name, name)] = place
    for name in given_back:
        last[owner.get(name, name)] = len(nodes)
    now = peak = 0
    ends: dict[int, list[str]] = {}
    for name, place in last.items():
        if name in sizes:
            ends.setdefault(place, []).append(name)
    for place, node in enumerate(nodes):
        now += sum(sizes[name] for name in node.output if name and name not in owner)
        peak = max(peak, now)
        now -= sum(sizes[name] for name in ends.get(place, ()))
    return peak
