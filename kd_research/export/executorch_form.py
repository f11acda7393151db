"""The student as an ExecuTorch program for phones, with XNNPACK's kernels; an optional extra."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.interfaces import Inputs

MAX_BATCH = 1024  # ExecuTorch plans its memory for the largest batch


def is_installed() -> bool:
    """Whether ExecuTorch is there."""
    return find_spec("executorch") is not None


class ExecutorchStudent(nn.Module):
    """A .pte file as a module: inputs -> logits (B, C), by ExecuTorch's runtime on the processor.

    Args:
        path: the file.
        names: of the token tensors, in order; empty for images.
    """

    def __init__(self, path: Path, names: tuple[str, ...]):
        super().__init__()
        from executorch.runtime import Runtime

        self._program = Runtime.get().load_program(path)
        self._method: Any = self._program.load_method("forward")
        self._names = names

    def forward(self, inputs: Tensor | None = None, **named: Tensor) -> Tensor:
        """Inputs (B, ...), or token tensors by name, as the student takes them."""
        given = [named[name] for name in self._names] if inputs is None else [inputs]
        logits: Tensor = self._method.execute([tensor.contiguous() for tensor in given])[0]
        return logits.clone()  # the runtime reuses its output


def to_executorch(student: nn.Module, example: Inputs, path: Path) -> None:
    """Write the student, in eval mode and on the processor, with a dynamic batch.

    Args:
        student: inputs -> logits.
        example: two prepared examples or more.
        path: of the .pte file.

    Raises:
        ValueError: torch cannot export it; the message has its reason.
    """
    named = example if isinstance(example, dict) else {}
    positional = () if isinstance(example, dict) else (example,)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes: Any = {name: {0: batch} for name in named} or ({0: batch},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, of its own parts
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.export(student, positional, named, dynamic_shapes=shapes)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            content = lowered.to_executorch().buffer
    except Exception as error:  # the exporters raise many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{type(student).__name__} cannot be exported: {reason}") from error
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    temporary.replace(path)
