"""A student that starts from its teacher's weights: some of its layers, some of its width.

Layers as DistilBERT takes every second one (Sanh et al. 2019, arXiv:1910.01108, section 3).
Width by activation importance, as Minitron (Muralidharan et al. 2024, arXiv:2407.14679, section
2.2): what the norms give on a batch says which channels of the stream stay, and likewise the
neurons of each MLP and, in each head, what queries, keys and values give. One batch, where the
paper has 1,024 samples.

For any net whose layers are equal blocks in one list; width for transformers alone: `gpt`,
`text_transformer` (whose sines are then those of the new width), BERT's and Llama's kind.

Shapes: W width of the stream, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_research.interfaces import Inputs

# What a dimension of a weight is, by the weight's name; the others are the stream's.
QUERY_KEY = re.compile(r"(query|key|q_proj|k_proj)\.(weight|bias)$")
VALUE = re.compile(r"(value|v_proj)\.(weight|bias)$")
MERGED = re.compile(r"in_proj_(weight|bias)$")  # torch's own attention has all three in one
HEADS_OUT = re.compile(
    r"(attention\.out|attention\.output\.dense|self_attn\.(out|o)_proj)\.weight$"
)
NEURONS = re.compile(r"(\bup|intermediate\.dense|linear1|up_proj|gate_proj)\.(weight|bias)$")
NEURONS_OUT = re.compile(r"(\bdown|(?<!attention\.)output\.dense|linear2|down_proj)\.weight$")

_LISTS = (nn.ModuleList, nn.Sequential)


def inherit(
    student: nn.Module,
    teacher: nn.Module,
    inputs: Inputs,
    layers: Sequence[int] | None = None,
    width: int | None = None,
) -> None:
    """Put (some of) the teacher's weights into the student.

    Args:
        student: takes them; of the teacher's family.
        teacher: gives them.
        inputs: one prepared batch, which says what is important.
        layers: of the student's layers in turn, which of the teacher's each is, from 0; None
            spreads them evenly, so that half as many are every second one.
        width: the student's W; None where it is the teacher's.

    Raises:
        ValueError: the layers or widths do not fit, or the nets are of different families.
    """
    path, num_student, num_teacher = _blocks(student, teacher)
    if layers is None:
        layers = [number * num_teacher // num_student for number in range(num_student)]
    if len(layers) != num_student or not all(0 <= number < num_teacher for number in layers):
        raise ValueError(
            f"layers={[*layers]} must name {num_student} layers, as many as the student has, each "
            f"from 0 to {num_teacher - 1} of the teacher's; or make the student {len(layers)} "
            f"deep: student.model.depth={len(layers)}"
        )
    source, given = dict(teacher.state_dict()), student.state_dict()
    choose = _Channels(student, teacher, inputs, width)
    prefix = f"{path}."
    taken = {}
    for name, tensor in given.items():
        theirs = name
        if name.startswith(prefix):
            number, rest = name.removeprefix(prefix).split(".", 1)
            theirs = f"{prefix}{layers[int(number)]}.{rest}"
        if theirs not in source:
            raise ValueError(
                f"the teacher has no {theirs}, which the student's {name} would start from: they "
                "are of different families; give both the same model"
            )
        taken[name] = choose.cut(theirs, source[theirs], tensor.shape)
    student.load_state_dict(taken)


def _blocks(student: nn.Module, teacher: nn.Module) -> tuple[str, int, int]:
    """The list of equal blocks that both have, and how many each has in it."""
    both = dict(teacher.named_modules())
    found = []
    for name, module in student.named_modules():
        other = both.get(name)
        if isinstance(module, _LISTS) and isinstance(other, _LISTS):
            kinds = {type(block) for block in (*module, *other)}
            if len(kinds) == 1 and list(module.parameters()):
                found.append((name, len(module), len(other)))
    if not found:
        raise ValueError(
            f"no list of equal layers that both {type(student).__name__} and "
            f"{type(teacher).__name__} have; give both the same kind of model"
        )
    return max(found, key=lambda each: each[2])


def _width(model: nn.Module) -> int | None:
    norms = [m for m in model.modules() if type(m).__name__.endswith(("LayerNorm", "RMSNorm"))]
    return int(next(norms[0].parameters()).numel()) if norms else None


def _num_heads(model: nn.Module) -> int:
    for module in model.modules():
        for name in ("heads", "num_attention_heads", "num_heads"):
            if isinstance(value := getattr(module, name, None), int):
                return value
    return 1


class _Channels:
    """Which channels of the teacher's weights a narrower student takes."""

    def __init__(self, student: nn.Module, teacher: nn.Module, inputs: Inputs, width: int | None):
        self.widths = _width(student), _width(teacher)
        self.heads = _num_heads(student), _num_heads(teacher)
        if width is not None and width != self.widths[0]:
            raise ValueError(
                f"width={width}, but the student is {self.widths[0]} wide; "
                f"type student.model.width={width}, or leave the width out"
            )
        self.activity = _activity(teacher, inputs) if self.widths[0] != self.widths[1] else {}
        norms = [
            value
            for name, value in self.activity.items()
            if "Norm" in type(teacher.get_submodule(name)).__name__
        ]
        self.stream = torch.stack(norms).sum(dim=0) if norms else torch.zeros(0)
        self.source = teacher.state_dict()

    def cut(self, name: str, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """The student's share of a weight: `shape` of it, with copies of nothing."""
        if tuple(weight.shape) == tuple(shape):
            return weight.clone()
        for dimension, size in enumerate(shape):
            if weight.ndim != len(shape) or size > weight.shape[dimension]:
                raise ValueError(
                    f"{name} is {tuple(weight.shape)} in the teacher, {tuple(shape)} in the "
                    "student: a student that starts from its teacher is no wider"
                )
            if size < weight.shape[dimension]:
                index = self._index(name, dimension, weight.shape[dimension], size)
                weight = weight.index_select(dimension, index)
        return weight.clone()

    def _index(self, name: str, dimension: int, whole: int, size: int) -> Tensor:
        if MERGED.search(name) and dimension == 0:
            parts = [self._inner(name, name, whole // 3, size // 3, part) for part in (0, 0, 2)]
            return torch.cat([part + at * (whole // 3) for at, part in enumerate(parts)])
        if (QUERY_KEY.search(name) or VALUE.search(name)) and dimension == 0:
            return self._inner(name, name, whole, size, 2 if VALUE.search(name) else 0)
        if HEADS_OUT.search(name) and dimension == 1:
            return self._inner(name, self._value_of(name), whole, size, 2)
        if NEURONS.search(name) and dimension == 0:
            return _top(self._importance(re.sub(r"gate_proj", "up_proj", name)), size)
        if NEURONS_OUT.search(name) and dimension == 1:
            return _top(self._importance(self._neurons_of(name)), size)
        if "position" in name and dimension == 0:
            return torch.arange(size)
        if (size, whole) == self.widths:
            return _top(self.stream, size)
        raise ValueError(
            f"{name} has {whole} entries in the teacher and {size} in the student, which is no "
            "width of theirs; they must agree, as in the vocabulary"
        )

    def _value_of(self, name: str) -> str:
        """The weight that makes what this one mixes."""
        candidates = ("attention.value", "attention.self.value", "self_attn.v_proj")
        stem = re.sub(r"(attention|self_attn)\..*$", "", name)
        for candidate in candidates:
            if f"{stem}{candidate}.weight" in self.source:
                return f"{stem}{candidate}.weight"
        return f"{stem}self_attn.in_proj_weight"

    def _neurons_of(self, name: str) -> str:
        pairs = (("down", "up"), ("output.dense", "intermediate.dense"), ("linear2", "linear1"))
        for theirs, ours in (*pairs, ("down_proj", "up_proj")):
            if f".{theirs}.weight" in f".{name}":
                return name.replace(f"{theirs}.weight", f"{ours}.weight")
        raise AssertionError(name)

    def _inner(self, name: str, value: str, whole: int, size: int, part: int) -> Tensor:
        """Channels inside the heads: of every head alike, or, where sizes agree, whole heads.

        Args:
            name: of the weight.
            value: of the one that makes the values; for queries and keys, `name` itself.
            whole: how many there are.
            size: how many are taken.
            part: 0 for queries and keys, which must take the same; 2 for values.
        """
        if MERGED.search(value):
            blocks = self.source[re.sub(r"_(weight|bias)$", "_weight", value)]
            first, second, values = torch.linalg.vector_norm(blocks, dim=1).chunk(3)
            importance = values if part == 2 else first * second
        elif part == 2:
            importance = values = self._importance(value)
        else:
            stem = re.sub(r"(query|key|q_proj|k_proj)\.\w+$", "", name)
            long = "q_proj" in name or "k_proj" in name
            names = ("q_proj", "k_proj", "v_proj") if long else ("query", "key", "value")
            first, second, values = (self._importance(f"{stem}{each}.weight") for each in names)
            importance = first * second
        ours, theirs = self.heads
        if size // ours == whole // theirs:
            heads = _top(values.view(theirs, -1).sum(dim=1), ours)
            return torch.arange(whole).view(theirs, -1)[heads].flatten()
        if ours != theirs:
            raise ValueError(
                f"the student has {ours} heads of {size // ours}, the teacher {theirs} of "
                f"{whole // theirs}: keep the number of heads, or the size of each; "
                f"try student.model.heads={theirs}"
            )
        rows = importance.view(ours, -1)
        kept = [_top(row, size // ours) + at * rows.shape[1] for at, row in enumerate(rows)]
        return torch.cat(kept)

    def _importance(self, name: str) -> Tensor:
        """Of each row of a weight how much it gives: on the batch, or by its norm."""
        module = name.rsplit(".", 1)[0]
        if module in self.activity:
            return self.activity[module]
        norms: Tensor = torch.linalg.vector_norm(self.source[f"{module}.weight"], dim=1)
        return norms


def _top(importance: Tensor, size: int) -> Tensor:
    """The places of the `size` largest, in their order."""
    return importance.argsort(descending=True, stable=True)[:size].sort().values


@torch.no_grad()
def _activity(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Module -> the mean absolute output of each of its channels, of linear and norm layers."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[name] = output.float().abs().flatten(0, -2).mean(dim=0).cpu()

        return keep

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or "Norm" in type(module).__name__
    ]
    model(**inputs) if isinstance(inputs, dict) else model(inputs)
    for handle in handles:
        handle.remove()
    return found
