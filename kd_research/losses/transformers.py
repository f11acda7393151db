"""Losses on what is inside transformers: hidden states, attention, and relations of values.

For encoders and decoders. What is padding, or not learnt, counts nowhere: a position counts where
the attention mask says so, or, of a text whose tokens are labelled, where the label is learnt; a
pair of positions where the first counts and may look at the second.

Attention is computed from the layers that make queries and keys, so it needs no net that gives it
away; with rotary embeddings it is that of the queries and keys before they are turned.

Shapes: B batch, T tokens, W width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Count, Output, same_document

HIDDEN_AWAY = -1e9  # a score that is none: its softmax is exactly 0, and no product is NaN


def counted(batch: Batch) -> Tensor:
    """Which positions count, (B, T) bool.

    Raises:
        ValueError: the inputs are no text.
    """
    if batch.valid is not None:
        return batch.valid
    if not isinstance(batch.inputs, dict) or "attention_mask" not in batch.inputs:
        raise ValueError(
            "this loss looks at tokens, and the data set has none; type dataset=sst2 or "
            "dataset=hub_lm, or another loss"
        )
    return batch.inputs["attention_mask"] != 0


def counted_pairs(batch: Batch) -> Tensor:
    """Which pairs of positions count, (B, 1, T, T) bool: the first looks at the second.

    In text whose tokens are labelled nobody looks ahead, nor into another packed document.
    """
    mask = counted(batch)
    if batch.valid is None:
        return (mask.unsqueeze(2) & mask.unsqueeze(1)).unsqueeze(1)
    assert isinstance(batch.inputs, dict)
    ids = batch.inputs["input_ids"]
    positions = batch.inputs.get("position_ids")
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return same_document(positions) & mask.view(len(mask), 1, -1, 1)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of (B, T) or (B, H, T, T) values where the mask, which broadcasts, is true: ()."""
    weight = mask.expand_as(values).to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1)


class HiddenCosine(nn.Module):
    """One minus the cosine of the last hidden states (DistilBERT; Sanh et al. 2019, section 3).

    The mean over the positions that count. A student of another width gets a linear map first,
    which the paper's has not.

    Args:
        student_layer: number of the student's layer; negative ones from the end.
        teacher_layer: of the teacher's.
        layers: how the nets call their layers: {"hidden"}, "{}" for the number.
    """

    def __init__(self, student_layer: int, teacher_layer: int, layers: Mapping[str, str]):
        super().__init__()
        self.student_layers = (layers["hidden"].format(student_layer),)
        self.teacher_layers = (layers["hidden"].format(teacher_layer),)
        self.regressor: nn.Module = nn.Identity()

    def build(self, student: Output, teacher: Output) -> None:
        """Make the map, where the widths differ."""
        ours, theirs = self._states(student, teacher)
        if ours.shape[-1] != theirs.shape[-1]:
            self.regressor = nn.Linear(ours.shape[-1], theirs.shape[-1])

    def _states(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        ours, theirs = (
            student.features[self.student_layers[0]],
            teacher.features[self.teacher_layers[0]].detach(),
        )
        _require_tokens({self.student_layers[0]: ours, self.teacher_layers[0]: theirs})
        return ours, theirs

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over positions, ()."""
        ours, theirs = self._states(student, teacher)
        cosine = F.cosine_similarity(self.regressor(ours), theirs, dim=-1)
        return mean_over(1 - cosine, counted(batch))


class TinyBERT(nn.Module):
    """Hidden states and attention, layer by layer (TinyBERT; Jiao et al. 2020, equations 7 to 9).

    The sum over pairs of the mean squared difference of the hidden states (through one linear map
    for all pairs, as in the authors' code), and of the attention scores before their softmax.
    The paper trains on this first and on the logits afterwards; here they are terms of one sum.

    Args:
        layer_map: the student's layer -> the teacher's, by number; negative ones from the end.
        layers: how the nets call their layers: {"embeddings", "hidden", "query", "key"}, "{}" for
            the number.
        heads: H, the student's as the teacher's.

    Raises:
        ValueError: the map is empty.
    """

    def __init__(self, layer_map: Mapping[int, int], layers: Mapping[str, str], heads: Count):
        super().__init__()
        if not layer_map:
            raise ValueError("loss.layer_map is empty; try 'loss.layer_map={0: 0, -1: -1}'")
        self.heads = heads
        self._hidden: list[tuple[str, str]] = [(layers["embeddings"], layers["embeddings"])]
        self._attention: list[tuple[tuple[str, str], tuple[str, str]]] = []
        for ours, theirs in layer_map.items():
            self._hidden.append((layers["hidden"].format(ours), layers["hidden"].format(theirs)))
            query, key = layers["query"], layers["key"]
            mine = (query.format(ours), key.format(ours))
            self._attention.append((mine, (query.format(theirs), key.format(theirs))))
        self.student_layers = _names(self._hidden, self._attention, 0)
        self.teacher_layers = _names(self._hidden, self._attention, 1)

    def build(self, student: Output, teacher: Output) -> None:
        """Make the map of the hidden states, and check the heads."""
        _require_tokens(teacher.features)
        _require_tokens(student.features)
        for mine, other in self._attention:
            _require_heads(self.heads, student, mine)
            _require_heads(self.heads, teacher, other)
        ours, theirs = self._hidden[0]
        widths = student.features[ours].shape[-1], teacher.features[theirs].shape[-1]
        self.regressor = nn.Linear(*widths)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over pairs of means over what counts, ()."""
        total = student.logits.new_zeros(())
        mask, pairs = counted(batch), counted_pairs(batch)
        for ours, theirs in self._hidden:
            mapped, wanted = self.regressor(student.features[ours]), teacher.features[theirs]
            total = total + mean_over((mapped - wanted.detach()).square().mean(dim=-1), mask)
        for mine, other in self._attention:
            difference = _scores(student, mine, self.heads) - _scores(teacher, other, self.heads)
            total = total + mean_over(difference.square(), pairs)
        return total


class MiniLM(nn.Module):
    """The last layer's attention and relations of values (MiniLM; Wang et al. 2020, section 3).

    KL(teacher || student) of the attention distributions, and of softmax(V V^T / sqrt(d)), each
    the mean over heads and positions. Widths may differ: with `heads` other than the nets' own the
    queries, keys and values are cut into that many relation heads, as MiniLMv2 does (Wang et al.
    2021, arXiv:2012.15828).

    Args:
        student_layer: number of the student's layer; negative ones from the end.
        teacher_layer: of the teacher's.
        layers: how the nets call their layers: {"query", "key", "value"}, "{}" for the number.
        heads: H, of both.
    """

    def __init__(
        self, student_layer: int, teacher_layer: int, layers: Mapping[str, str], heads: Count
    ):
        super().__init__()
        self.heads = heads
        names = [layers[part] for part in ("query", "key", "value")]
        self.student_layers = tuple(name.format(student_layer) for name in names)
        self.teacher_layers = tuple(name.format(teacher_layer) for name in names)

    def build(self, student: Output, teacher: Output) -> None:
        """Check the heads."""
        _require_tokens(teacher.features)
        _require_tokens(student.features)
        _require_heads(self.heads, student, self.student_layers)
        _require_heads(self.heads, teacher, self.teacher_layers)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum of both, nats, ()."""
        mask, pairs = counted(batch), counted_pairs(batch)
        total = student.logits.new_zeros(())
        for first, second in ((0, 1), (2, 2)):
            logs = []
            for output, names in ((student, self.student_layers), (teacher, self.teacher_layers)):
                scores = _scores(output, (names[first], names[second]), self.heads)
                logs.append(scores.masked_fill(~pairs, HIDDEN_AWAY).log_softmax(dim=-1))
            ours, theirs = logs[0], logs[1].detach()
            divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
            total = total + mean_over(divergence, mask.unsqueeze(1))
        return total


def _scores(output: Output, names: Sequence[str], heads: int) -> Tensor:
    """Scaled products of two layers' tokens, head by head: (B, H, T, T)."""
    both = [output.features[name] for name in names]
    first, second = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in both)
    return torch.matmul(first, second.transpose(2, 3)) / math.sqrt(first.shape[-1])


def _names(
    hidden: Sequence[tuple[str, str]],
    attention: Sequence[tuple[tuple[str, str], tuple[str, str]]],
    who: int,
) -> tuple[str, ...]:
    names = [pair[who] for pair in hidden] + [name for pair in attention for name in pair[who]]
    return tuple(dict.fromkeys(names))


def _require_tokens(features: Mapping[str, Tensor]) -> None:
    wrong = [f"{name!r} gives {tuple(x.shape)}" for name, x in features.items() if x.ndim != 3]
    if wrong:
        raise ValueError(
            f"this loss needs layers that give (examples, tokens, width): {', '.join(wrong)}; "
            "choose others, as by layers@loss.layers=gpt"
        )


def _require_heads(heads: int, output: Output, names: Sequence[str]) -> None:
    for name in names:
        width = output.features[name].shape[-1]
        if width % heads:
            raise ValueError(
                f"loss.heads={heads} does not divide the width {width} of layer {name!r}; "
                f"try loss.heads={math.gcd(heads, width)}"
            )
