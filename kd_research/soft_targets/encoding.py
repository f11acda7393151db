"""How a teacher's outputs for one example become a row of bytes, and come back.

The logits of every position are kept whole; or as the k largest and the log of the others' joint
mass (the tail), spread evenly over them; or as random draws from the teacher's distribution
(Anshumann et al. 2025, arXiv:2503.16870), whose frequencies are an unbiased estimate of it. A
position is an example of a classifier, a token, or a pixel.

Shapes: B examples, P positions of each, C classes, M = B * P positions, K classes that are kept of
a position, W 64-bit words of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from kd_research.interfaces import Output
from kd_research.losses.logits import EXCLUDED
from kd_research.losses.positions import classes_last

LOGITS = "logits"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
UINT16 = 1 << 16  # vocabularies below take two bytes an id
MAX_DRAWS = 255  # a count is one byte


class Encoding:
    """The layout of a row: values, then class ids, then counts, each padded to 64 bits.

    Args:
        shapes: name -> shape of one example's output; "logits" (C,), (T, V) or (C, H, W), and the
            features.
        dtype: "float32" or "float16", of all values. In float16 the largest kept logits of a
            position are taken relative to the largest, which no softmax sees.
        top_k: K, the largest logits that are kept, with the tail; None keeps all.
        draws: K, random draws with replacement from the softmax at temperature 1; None: not so.

    Raises:
        ValueError: an unknown dtype, a number outside its range, or both `top_k` and `draws`.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: str,
        top_k: int | None,
        draws: int | None,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"soft_targets.dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
        self.shape = tuple(shapes[LOGITS])
        self.num_classes = self.shape[0] if len(self.shape) != 2 else self.shape[1]
        if top_k is not None and not 0 < top_k < self.num_classes:
            raise ValueError(
                f"soft_targets.top_k must be in 1 to {self.num_classes - 1}, got {top_k}; "
                "type soft_targets.top_k=null to keep all logits"
            )
        if draws is not None and not 0 < draws <= MAX_DRAWS:
            raise ValueError(
                f"soft_targets.draws must be in 1 to {MAX_DRAWS}, got {draws}; "
                "type soft_targets.draws=null to draw nothing"
            )
        if draws is not None and top_k is not None:
            raise ValueError(
                "soft_targets.top_k and soft_targets.draws are two ways to keep few classes; "
                "type soft_targets.top_k=null or soft_targets.draws=null"
            )
        self.dtype, self.top_k, self.draws = DTYPES[dtype], top_k, draws
        self.features = {name: shape for name, shape in shapes.items() if name != LOGITS}
        self.num_positions = math.prod(self.shape) // self.num_classes
        few = top_k or draws or 0
        values = self.num_classes if not few else top_k + 1 if top_k else 0
        self._num_logits = self.num_positions * values
        self._num_ids = self.num_positions * few
        self._id_dtype = torch.int16 if self.num_classes < UINT16 else torch.int32
        num_features = sum(math.prod(shape) for shape in self.features.values())
        self._num_values = self._num_logits + num_features
        self._ids_at = _padded(self._num_values * self.dtype.itemsize)
        self._counts_at = self._ids_at + _padded(self._num_ids * self._id_dtype.itemsize)
        self._num_counts = self._num_ids if draws else 0
        self.words = (self._counts_at + _padded(self._num_counts)) // 8

    def encode(self, output: Output, seeds: Tensor) -> Tensor:
        """(B, W + 1) int64; the last word is left 0, for a checksum.

        Args:
            output: the teacher's.
            seeds: (B,) int64, what an example's draws are drawn by.

        Raises:
            ValueError: a value is not finite in the dtype.
        """
        logits = output.logits.detach().float().cpu()
        num = logits.shape[0]
        ids = torch.zeros(num, 0, dtype=torch.int64)
        counts = torch.zeros(num, 0, dtype=torch.int64)
        if self.top_k is not None:
            kept, ids = _top(self._by_position(logits), self.top_k)
            if self.dtype == torch.float16:
                kept = kept - kept[:, :1]
            logits, ids = kept.view(num, -1), ids.view(num, -1)
        elif self.draws is not None:
            ids, counts = _drawn(
                self._by_position(logits).view(num, -1, self.num_classes), seeds, self.draws
            )
            logits = logits.new_zeros(num, 0)
        parts = [logits.flatten(1)] + [
            output.features[name].detach().float().cpu().flatten(1) for name in self.features
        ]
        values = torch.cat(parts, dim=1).to(self.dtype)
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"a teacher output is not finite in {self.dtype}; type soft_targets.dtype=float32, "
                "or look at the teacher"
            )
        row = torch.zeros(num, self.words + 1, dtype=torch.int64)
        row.view(self.dtype)[:, : self._num_values] = values
        start = self._ids_at // self._id_dtype.itemsize
        row.view(self._id_dtype)[:, start : start + self._num_ids] = ids.to(self._id_dtype)
        row.view(torch.uint8)[:, self._counts_at : self._counts_at + self._num_counts] = counts.to(
            torch.uint8
        )
        return row

    def decode(self, rows: Tensor) -> Output:
        """The outputs of (B, W + 1) rows, in float32."""
        values = rows.view(self.dtype)[:, : self._num_values].float()
        features, start = {}, self._num_logits
        for name, shape in self.features.items():
            size = math.prod(shape)
            features[name] = values[:, start : start + size].reshape(-1, *shape)
            start += size
        if self.top_k is None and self.draws is None:
            logits = values[:, : self._num_logits].reshape(-1, *self.shape)
        else:
            logits = self._dense(rows).view(len(rows), -1, self.num_classes)
            logits = logits.movedim(2, 1) if len(self.shape) == 3 else logits
            logits = logits.reshape(-1, *self.shape)
        return Output(logits, features)

    def logits_at(self, rows: Tensor, example: Tensor, position: Tensor) -> Tensor:
        """The logits of some positions of text alone, (M', C): only these become dense.

        Args:
            rows: (B, W + 1).
            example: (M',) int64, which of the rows.
            position: (M',) int64, which of its positions.
        """
        if self.top_k is None and self.draws is None:
            values = rows.view(self.dtype)[:, : self._num_logits]
            return values.view(len(rows), -1, self.num_classes)[example, position].float()
        return self._dense(rows, example, position)

    def _dense(
        self, rows: Tensor, example: Tensor | None = None, position: Tensor | None = None
    ) -> Tensor:
        """(M', C): the kept classes at their places, the others by the tail, or left out."""
        few = self.top_k or self.draws or 0

        def chosen(flat: Tensor, width: int) -> Tensor:
            per_position = flat.reshape(len(rows), self.num_positions, width)
            if example is None or position is None:
                return per_position.flatten(0, 1)
            return per_position[example, position]

        start = self._ids_at // self._id_dtype.itemsize
        ids = chosen(rows.view(self._id_dtype)[:, start : start + self._num_ids], few).long()
        ids = ids & (UINT16 - 1) if self._id_dtype == torch.int16 else ids
        if self.top_k is not None:
            kept = chosen(rows.view(self.dtype)[:, : self._num_logits], few + 1).float()
            return kept[:, -1:].expand(-1, self.num_classes).scatter(1, ids, kept[:, :-1])
        counts = rows.view(torch.uint8)[:, self._counts_at : self._counts_at + self._num_counts]
        frequencies = chosen(counts, few).float() / few
        dense = frequencies.new_zeros(len(ids), self.num_classes).scatter_add(1, ids, frequencies)
        return dense.log().clamp_min(EXCLUDED)

    def _by_position(self, logits: Tensor) -> Tensor:
        """(B, ...) -> (M, C)."""
        if logits.ndim > 2:
            logits = classes_last(logits)
        return logits.reshape(-1, self.num_classes)


def _padded(num_bytes: int) -> int:
    return math.ceil(num_bytes / 8) * 8


def _top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(M, k + 1): the k largest and what each other class gets; (M, k): whose they are."""
    largest, classes = logits.topk(k, dim=1)
    others = logits.scatter(1, classes, -math.inf).logsumexp(dim=1, keepdim=True)
    each = others - math.log(logits.shape[1] - k)
    return torch.cat([largest, each], dim=1), classes


def _drawn(logits: Tensor, seeds: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """(B, P * num) classes drawn from (B, P, C), and how often each; a repeat counts 0."""
    generator = torch.Generator()
    drawn = []
    for row, seed in zip(logits, seeds.tolist(), strict=True):
        generator.manual_seed(seed)
        drawn.append(torch.multinomial(row.softmax(1), num, True, generator=generator))
    ids = torch.stack(drawn).sort(dim=2).values
    same = ids[..., :, None] == ids[..., None, :]
    is_first = ~(same & torch.ones(num, num, dtype=torch.bool).tril(-1)).any(dim=3)
    counts = same.sum(dim=3) * is_first
    return ids.flatten(1), counts.flatten(1)
