"""The reverse KL divergence of whole texts, by policy gradient on the student's own ones.

For texts that were drawn from the student, or from a mixture of student and teacher: the labels
are the tokens drawn (`training/on_policy.py` makes such batches).

Shapes: N valid positions of the batch, V tokens of the vocabulary, B texts, P positions of each.
p is the teacher's distribution, q the student's, at each position given what the text has so far.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_research.interfaces import Batch, Output, ShareBelow1
from kd_research.losses.divergences import distributions, kl
from kd_research.losses.gather import gather_batch
from kd_research.losses.logits import class_labels


class MiniLLM(nn.Module):
    """KL(q || p) of whole texts (Gu et al. 2024, arXiv:2306.08543, equations 3 to 8).

    The gradient at a position is that of w [KL(q || p) - A log q(token)]. The first part is the
    exact single-step term: what the token itself costs. A is what follows from it: the sum of
    log p - log q over the tokens after it, without gradient, divided by their number, and whitened
    over the positions of the batch. w = q / (share p + (1 - share) q) of the token corrects
    for texts that were drawn from this mixture; it too is without gradient. It looks at one
    position, as the paper's does: exact weights would be products over all positions, whose
    variance is too large.

    The value is the mean of w KL(q || p), nats: the part of A has the value 0 and its gradient.

    What is not the paper's: one update for each batch of text, so nothing is clipped to an older
    student as PPO does; whitening is over the batch of the step, of all processes together, but of
    each accumulated batch alone. As in the authors' code, a length of 0 after the last token counts
    as 1.

    Args:
        teacher_share: the teacher's share in the mixture that drew the text, in [0, 1); the paper's
            0.2. 0: the student drew it alone, and w is 1.
        length_normalise: divide by the number of tokens that follow.
        whiten: subtract the mean of A, and divide by its standard deviation.

    Raises:
        ValueError: teacher_share outside [0, 1).
    """

    reads_texts = True

    def __init__(
        self, teacher_share: ShareBelow1, length_normalise: bool = True, whiten: bool = True
    ):
        super().__init__()
        if not 0 <= teacher_share < 1:
            raise ValueError(
                f"teacher_share must be in [0, 1), got {teacher_share}; try loss.teacher_share=0.2"
            )
        self.teacher_share = float(teacher_share)
        self.length_normalise, self.whiten = bool(length_normalise), bool(whiten)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """The mean over the positions, (), nats.

        Args:
            student: logits (N, V).
            teacher: the same.
            batch: labels (N,), the tokens drawn; without `valid` each is a text of its own.
        """
        log_p, log_q = distributions(student.logits, teacher.logits, 1.0)
        tokens = class_labels(self, batch)[:, None]
        token_p, token_q = log_p.gather(1, tokens)[:, 0], log_q.gather(1, tokens)[:, 0]
        drawn = token_q.detach()
        valid = torch.ones_like(tokens, dtype=torch.bool) if batch.valid is None else batch.valid
        later = after(token_p - drawn, valid, self.length_normalise)
        if self.whiten:
            later = whitened(later)
        weights = importance(token_p, drawn, self.teacher_share)
        return (weights * (kl(log_q, log_p) - later * (token_q - drawn))).mean()


def after(rewards: Tensor, valid: Tensor, mean: bool) -> Tensor:
    """What follows each token of its text: the sum of the later tokens' rewards, (N,).

    Args:
        rewards: (N,).
        valid: (B, P), true at the N positions of the rewards, row by row.
        mean: divide by the number of later tokens; after the last one it is 0 in any case.
    """
    own = rewards.new_zeros(valid.shape)
    own[valid] = rewards
    count = valid.to(rewards.dtype)
    later, left = (each.flip(1).cumsum(1).flip(1) - each for each in (own, count))
    if mean:
        later = later / left.clamp_min(1)
    return later[valid]


def whitened(values: Tensor) -> Tensor:
    """With mean 0 and standard deviation 1 over the positions of all processes, (N,)."""
    every = gather_batch(values)
    variance = every.var(correction=0)
    return (values - every.mean()) * (variance + 1e-8).rsqrt()


def importance(token_p: Tensor, token_q: Tensor, teacher_share: float) -> Tensor:
    """The weights q / (share p + (1 - share) q) of tokens, (N,), from their log-probabilities."""
    if teacher_share == 0:
        return torch.ones_like(token_q)
    gap = (token_p - token_q).exp()
    return 1 / (teacher_share * gap + (1 - teacher_share))
