"""Class impressions: inputs that the teacher takes for drawn mixtures of classes (ZSKD).

Shapes: N examples, B batch, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from kd_research.interfaces import Count, Positive
from kd_research.models.headless import head_of
from kd_research.records.printing import SPOKEN
from kd_research.transfer.kept import Kept
from kd_research.transfer.size import refuse_what_cannot_fit
from kd_research.transfer.variants import kinds, of_each

log = logging.getLogger(SPOKEN)


@dataclass(frozen=True)
class ClassImpressions:
    """Data impressions (Nayak et al. 2019, arXiv:1905.08114, section 3 and algorithm 1).

    How similar classes are is read off the weights of the teacher's last layer. Of each class as
    many targets are drawn, from Dirichlet distributions about its row of similarities; then an
    input is optimised for each, from Gaussian noise, until the teacher's softened output is it.

    Args:
        num_examples: N, over all classes; the paper has 24,000 for MNIST.
        variants: of each impression, scaled, shifted, turned or mirrored (`variants.py`); the
            authors have all 102. 0 is the impressions alone.
        iterations: optimizer steps of each input; the paper 1,500.
        batch_size: B, inputs that are optimised together.
        lr: of Adam; ours.
        temperature: of the teacher's softmax; the paper's 20.
        concentrations: the paper's scales of the Dirichlet parameters, each for as many targets.

    Raises:
        ValueError: a value that is not of its kind, all of them at once.
    """

    num_examples: Count = 24000
    iterations: Count = 1500
    batch_size: Count = 100
    lr: Positive = 0.01
    temperature: Positive = 20.0
    concentrations: Sequence[Positive] = (1.0, 0.1)
    variants: Annotated[int, "in [0, 102]"] = 0

    def __post_init__(self) -> None:
        problems = [
            f"transfer.{name} must be a whole number >= 1, got {getattr(self, name)}; try 100"
            for name in ("num_examples", "iterations", "batch_size")
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1)
        ]
        problems += [
            f"transfer.{name} must be > 0, got {getattr(self, name)}"
            for name in ("lr", "temperature")
            if not getattr(self, name) > 0
        ]
        if not (isinstance(self.variants, int) and 0 <= self.variants <= len(kinds())):
            problems.append(
                f"transfer.variants must be a whole number from 0 to {len(kinds())}, "
                f"got {self.variants}; try 9"
            )
        if not self.concentrations or any(not each > 0 for each in self.concentrations):
            problems.append(
                f"transfer.concentrations must be numbers > 0, got {self.concentrations}; "
                "try [1.0, 0.1]"
            )
        if problems:
            raise ValueError("\n".join(problems))

    def check(self, shape: Sequence[int], teacher: nn.Module, num_classes: int) -> None:
        """Raise ValueError where it does not fit teacher or images, or into memory."""
        similarities(teacher, num_classes)
        if self.variants and len(shape) != 3:
            raise ValueError(
                f"transfer.variants are of images (channels, height, width), an example here is "
                f"{[*shape]}; type transfer.variants=0"
            )
        refuse_what_cannot_fit(self.num_examples, 1 + self.variants, shape)

    def __call__(
        self,
        teacher: nn.Module,
        shape: Sequence[int],
        num_classes: int,
        seed: int,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prepared inputs (N, *shape) and their most probable classes (N,), both on the CPU.

        With V variants of each there are N + V * N; a variant's class is the teacher's own.

        Args:
            teacher: frozen, on its device.
            shape: of one example.
            num_classes: K.
            seed: of all draws.
            kept: the impressions that were made before.

        Raises:
            ValueError: the teacher has no last linear layer.
        """
        generator = torch.Generator().manual_seed(seed)
        targets = self.targets(similarities(teacher, num_classes), generator)
        device = next(teacher.parameters()).device
        made = torch.empty(self.num_examples * (1 + self.variants), *shape)  # gigabytes: once
        labels = torch.empty(len(made), dtype=torch.long)  # small ones amid large leave holes
        labels[: self.num_examples] = targets.argmax(dim=1)
        place = known = 0
        parts = torch.split(targets, self.batch_size)
        for step, part in enumerate(parts, start=1):
            noise = torch.randn(len(part), *shape, generator=generator)
            if kept and place == known and (before := kept.get(str(place))):
                known = place + len(before["made"])
                made[place:known] = before["made"]
            then = place + len(part)
            if then > known:
                made[place:then] = self._optimised(teacher, noise.to(device), part.to(device))
            place = then
            if kept and place > known and kept.is_due:
                kept.put(str(known), made=made[known:place].clone())
                known = place
            if step == 1 or step % max(1, len(parts) // 20) == 0:
                log.info("class impressions: %d of %d", place, self.num_examples)
        if not self.variants:
            return made, labels
        with torch.no_grad():
            for several in of_each(made[:place], self.variants, generator):
                then = place + len(several)
                made[place:then] = several
                labels[place:then] = teacher(several.to(device)).argmax(dim=1)
                place = then
        return made, labels

    def targets(self, similar: Tensor, generator: torch.Generator) -> Tensor:
        """(N, K): as many of each class and each concentration as possible, in a random order.

        Args:
            similar: (K, K), a row each class.
            generator: of the draws.
        """
        number = torch.arange(self.num_examples)
        scales = torch.tensor(list(self.concentrations))
        classes = number % len(similar)
        scale = scales[(number // len(similar)) % len(scales)]
        parameters = (similar[classes] * scale.unsqueeze(1)).clamp_min(1e-3)
        gammas = torch._standard_gamma(parameters.double(), generator=generator).clamp_min(1e-30)
        drawn = (gammas / gammas.sum(dim=1, keepdim=True)).float()
        return drawn[torch.randperm(len(drawn), generator=generator)]

    def _optimised(self, teacher: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs.requires_grad_()
        optimizer = torch.optim.Adam([inputs], lr=self.lr)
        with torch.enable_grad():
            for _ in range(self.iterations):
                optimizer.zero_grad()
                said = (teacher(inputs) / self.temperature).log_softmax(dim=1)
                loss = -(targets * said).sum()  # a sum: no input's step depends on the others
                loss.backward()
                optimizer.step()
        return inputs.detach()


def similarities(teacher: nn.Module, num_classes: int) -> Tensor:
    """(K, K) in [0, 1], on the CPU: cosines of the last layer's weights, each row from 0 to 1.

    Raises:
        ValueError: there is no last linear layer with a row for each class.
    """
    head = head_of(teacher)
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or len(weight) != num_classes:
        raise ValueError(
            "class impressions need a teacher whose last layer is linear and called head, to read "
            "off it which classes are similar; try transfer=generator"
        )
    rows = torch.nn.functional.normalize(weight.detach().float().cpu(), dim=1)
    cosines = rows @ rows.T
    least = cosines.amin(dim=1, keepdim=True)
    return (cosines - least) / (cosines.amax(dim=1, keepdim=True) - least)
