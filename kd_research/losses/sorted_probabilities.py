"""Distances between sorted probabilities, for nets that do not name the same classes.

Shapes: N valid positions of the batch, V tokens of the student's vocabulary, U of the teacher's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output
from kd_research.losses.logits import full


class UniversalLogit(nn.Module):
    """Sum of |sort q - sort p| (ULD; Boizard et al. 2024, arXiv:2402.12030, equation 4).

    Both are sorted from the largest probability down, the shorter one with zeros at its end: which
    token is which does not matter, so the vocabularies may differ.

    The paper compares the first position with the first, the second with the second, and so on.
    Here a position is compared where both nets have read the same bytes; at the others the
    teacher's logits are all -inf, and the distance is 0. The mean is over all valid positions, so
    that it is the same for any number of processes.
    """

    any_vocabulary = True
    reads_texts = True  # whole rows: what is cached or chunked of a vocabulary is not enough

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over the positions, (), in [0, 2].

        Args:
            student: logits (N, V).
            teacher: logits (N, U).
            batch: not looked at.
        """
        theirs = full(teacher.logits.detach())
        silent = theirs.isneginf().all(dim=1)
        p = theirs.masked_fill(silent[:, None], 0.0).softmax(dim=1)
        q = full(student.logits).softmax(dim=1)
        p, q = (each.sort(dim=1, descending=True).values for each in (p, q))
        longest = max(p.shape[1], q.shape[1])
        p, q = (F.pad(each, (0, longest - each.shape[1])) for each in (p, q))
        return (p - q).abs().sum(dim=1).masked_fill(silent, 0.0).mean()
