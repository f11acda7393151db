"""Singular vectors of maps, and how they go on from layer to layer (KD-SVD).

Shapes: B batch, c channels, K singular vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_research.interfaces import Batch, Count, Output
from kd_research.losses.maps import adapter, paired, pairs_of, require_maps

MORE = 3  # vectors of the student from which those nearest to the teacher's are taken
NEAR = 1e-4  # eigenvalues that are nearer, relative to the largest, have a damped derivative


class SingularVectors(nn.Module):
    """KD-SVD (Lee, Kim, Song 2018, arXiv:1807.06819).

    Of each map, as positions by channels, the first K right singular vectors. To each of the
    teacher's belongs the most similar of the student's first K + 3, with its sign. Between two
    consecutive layers: exp(-(v_i - w_j)^2 / 8) of all entries i, j, weighed by the teacher's
    singular values normalised over K; the squared difference of student and teacher, summed,
    mean over the batch.

    Args:
        student_layers: maps, at least two.
        teacher_layers: maps.
        vectors: K; RepDistiller's 1.

    Raises:
        ValueError: fewer than two layers, or K below 1.
    """

    def __init__(
        self, student_layers: Sequence[str], teacher_layers: Sequence[str], vectors: Count = 1
    ):
        super().__init__()
        self.student_layers, self.teacher_layers = paired(student_layers, teacher_layers)
        if len(self.student_layers) < 2:
            raise ValueError(
                "SingularVectors compares consecutive layers, got one; try "
                "loss.student_layers=[stages.0,stages.-1] loss.teacher_layers=[stages.0,stages.-1]"
            )
        if not (isinstance(vectors, int) and vectors >= 1):
            raise ValueError(f"vectors must be a whole number >= 1, got {vectors}; try 1")
        self.vectors = vectors

    def build(self, student: Output, teacher: Output) -> None:
        """Make the 1x1 convolutions to the teacher's channels, where they differ."""
        self.adapters = nn.ModuleList(
            adapter(ours, theirs)
            for ours, theirs in require_maps(self, student, teacher, positions=2)
        )

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The sum over consecutive layers, mean over the batch, ()."""
        total = 0.0 * student.logits.sum()
        before: tuple[Tensor, Tensor] | None = None
        pairs = pairs_of(self, student, teacher)
        for adapt, (ours, theirs) in zip(self.adapters, pairs, strict=True):
            aims, values = right_singular(theirs, self.vectors)
            aims = aims * torch.where(aims.sum(dim=1, keepdim=True) < 0, -1.0, 1.0).to(aims)
            found, _ = right_singular(adapt(ours), self.vectors + MORE)
            scale = values / torch.linalg.vector_norm(values, dim=1, keepdim=True).clamp_min(1e-12)
            now = _nearest(found, aims) * scale.unsqueeze(1), aims * scale.unsqueeze(1)
            if before is not None:
                gap = _flow(before[0], now[0]) - _flow(before[1], now[1])
                total = total + gap.square().sum() / len(ours)
            before = now
        return total


def right_singular(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first right singular vectors of maps as positions by channels, and their values.

    The derivative is that of first-order perturbation, with close singular values damped: torch's
    own is NaN where two are equal, as the zeros of dead channels are.

    Args:
        maps: (B, c, h, w).
        count: how many, at most c are there.

    Returns:
        (B, c, K), of length 1, signs by chance; (B, K) without gradient.
    """
    rows = maps.flatten(2)
    gram = rows @ rows.transpose(1, 2)
    with torch.no_grad():
        eigenvalues, vectors = torch.linalg.eigh(gram.double())
        eigenvalues, vectors = eigenvalues.flip(1), vectors.flip(2)
        first = vectors[:, :, :count]
        gaps = eigenvalues[:, None, : first.shape[2]] - eigenvalues[:, :, None]
        near = (NEAR * eigenvalues[:, :1, None]).clamp_min(1e-30)
        inverse = (gaps / (gaps.square() + near.square())).to(gram)
        values = eigenvalues[:, : first.shape[2]].clamp_min(0).sqrt().to(gram)
        vectors, first = vectors.to(gram), first.to(gram)
    change = vectors.transpose(1, 2) @ ((gram - gram.detach()) @ first)  # 0, but has a gradient
    return first + vectors @ (inverse * change), values


def _nearest(found: Tensor, aims: Tensor) -> Tensor:
    """(B, c, K): of `found` those most similar to each of `aims`, with their sign."""
    cosines = found.detach().transpose(1, 2) @ aims
    best = cosines.abs().argmax(dim=1, keepdim=True)
    chosen = found.gather(2, best.expand(-1, found.shape[1], -1))
    return chosen * cosines.gather(1, best).sign()


def _flow(before: Tensor, after: Tensor) -> Tensor:
    """(B, c after, c before, K)."""
    return torch.exp(-(after.unsqueeze(2) - before.unsqueeze(1)).square() / 8)
