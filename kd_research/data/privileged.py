"""The four synthetic experiments of Lopez-Paz et al. 2016 (arXiv:1511.03643, section 6).

An example is what the student sees (x, D columns) followed by what the teacher alone sees (x*):
`student.view.channels` and `teacher.view.channels` take them apart.

Shapes: N examples, D columns of x, P columns of x*.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_research.data.moments import moments
from kd_research.data.sources import Split, Splits

RELEVANT = 3  # columns that decide the class, in the last two
KINDS = {"clean_labels": 1, "clean_features": None, "relevant": RELEVANT, "by_sample": RELEVANT}


def privileged(
    kind: str,
    input_shape: tuple[int],
    num_train: int,
    num_test: int,
    seed: int,
) -> Splits:
    """Gaussian examples of two classes, with privileged columns.

    - clean_labels: x* = <a, x>, and y = 1 where x* + e > 0: the teacher sees the distance to the
      boundary, the labels are noisy.
    - clean_features: the student sees x* + noise, y = 1 where <a, x*> > 0.
    - relevant: x* are three columns of x, the same for all; y = 1 where <a_J, x*> > 0.
    - by_sample: as the authors' code has it, not the text: x* are three columns of x, others in
      each split, weighed by the same three weights; y = 1 above the split's median.

    Args:
        kind: one of these.
        input_shape: (D + P,): P is 1, D, 3 and 3.
        num_train: training examples; the paper's 200.
        num_test: test examples, and as many of validation.
        seed: of the weights a and of all examples.

    Raises:
        ValueError: an unknown kind, or fewer columns than it needs.
    """
    if kind not in KINDS:
        raise ValueError(
            f"dataset.source.kind must be one of {', '.join(KINDS)}, got {kind!r}; try relevant"
        )
    extra, whole = KINDS[kind], input_shape[0]
    width = whole // 2 if extra is None else whole - extra
    if width < RELEVANT or (extra is None and whole % 2):
        raise ValueError(
            f"dataset.input_shape of {kind} is [D + {'D' if extra is None else extra}], D >= "
            f"{RELEVANT}, got [{whole}]; try [{100 if extra is None else 50 + extra}]"
        )
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(width, generator=generator)

    def draw(num: int) -> Split:
        x = torch.randn(num, width, generator=generator)
        noise = torch.randn(num, width, generator=generator)
        order = torch.randperm(width, generator=generator)[:RELEVANT]
        seen, side, score = _draw(kind, x, noise, order, weights)
        return Split(torch.cat([seen, side], dim=1), (score > 0).long())

    train = draw(num_train)
    mean, std = moments(train)
    return Splits(train, draw(num_test), draw(num_test), mean=mean, std=std)


def _draw(
    kind: str, x: Tensor, noise: Tensor, order: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What student and teacher see, (N, D) and (N, P), and what decides the class, (N,)."""
    if kind == "clean_labels":
        distance = x @ weights
        return x, distance.unsqueeze(1), distance + noise[:, 0]
    if kind == "clean_features":
        return x + noise, x, x @ weights
    side = x[:, :RELEVANT] if kind == "relevant" else x[:, order]
    score = side @ weights[:RELEVANT]
    return x, side, score - (score.median() if kind == "by_sample" else 0)
