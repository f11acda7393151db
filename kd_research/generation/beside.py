"""Drawing with a second model beside the first: at each token a teacher has a say.

A mixture of the two models' distributions is itself a distribution, from which one draw is made, so
that a row's text depends on its own random numbers alone.

Shapes: B rows, V tokens. q is the first model's distribution, p the teacher's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kd_research.generation.decode import (
    evaluating,
    keeps_a_cache,
    next_logits,
    probabilities,
)
from kd_research.generation.settings import GenerationConfig
from kd_research.interfaces import Count, Share


class Mix(Protocol):
    """Two distributions become one, (B, V) float64 each; what it makes sums to 1."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """From q and p."""
        ...


@dataclass(frozen=True)
class TeacherMixed:
    """The mixture share p + (1 - share) q (MiniLLM; Gu et al. 2024, arXiv:2306.08543, section 2.2).

    Attributes:
        share: the teacher's, in [0, 1]; the paper's 0.2.

    Raises:
        ValueError: it is outside.
    """

    share: Share

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the teacher's share must be in [0, 1], got {self.share}; try 0.2")

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """From q and p."""
        return self.share * teacher + (1 - self.share) * student


@dataclass(frozen=True)
class TeacherReplaces:
    """The student proposes; outside the teacher's top K the teacher draws in its place.

    Speculative knowledge distillation (Xu et al. 2024, arXiv:2410.11325, algorithm 1), as the one
    distribution that this is: q within the top K, and p times the mass of q outside.

    Attributes:
        top_k: K >= 1; the paper's 25.

    Raises:
        ValueError: it is below 1.
    """

    top_k: Count

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be >= 1, got {self.top_k}; try 25")

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """From q and p."""
        best = teacher.topk(min(self.top_k, teacher.shape[1]), dim=1).indices
        accepted = torch.zeros_like(student).scatter_(1, best, student.gather(1, best))
        replaced = (1 - accepted.sum(dim=1, keepdim=True)).clamp_min(0)
        return accepted + replaced * teacher


class Beside:
    """A teacher that reads along: `generate(..., propose=Beside(...))`, once for each call.

    `generate` is to draw what this gives as it is: at temperature 1, without top-k or top-p.

    Args:
        teacher: a causal language model with the same tokens.
        mix: q, p -> what is drawn from.
        config: how q is cut before it is mixed; p is taken whole, at temperature 1.
    """

    def __init__(self, teacher: nn.Module, mix: Mix, config: GenerationConfig):
        self.teacher, self.mix, self.config = teacher, mix, config
        self._cached = keeps_a_cache(teacher)
        self._past: Any = None
        self._read = 0  # tokens of the text that are in the teacher's cache
        self.forward_tokens = 0  # that went through the teacher

    def __call__(self, logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """The logits to draw from, (B, V) float64.

        Args:
            logits: (B, V), the first model's.
            tokens: (B, T), the text so far.
            mask: (B, T), 0 at the padding.
        """
        given = tokens[:, self._read :]
        with torch.no_grad(), evaluating(self.teacher):
            theirs, self._past = next_logits(
                self.teacher, given, None if bool(mask.all()) else mask, self._past, self._cached
            )
        self._read = tokens.shape[1] if self._cached else 0
        self.forward_tokens += given.numel()
        whole = probabilities(theirs, GenerationConfig())
        return self.mix(probabilities(logits, self.config), whole).log()
