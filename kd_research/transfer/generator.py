"""A generator that is trained against the teacher alone, and what it draws (DAFL).

Shapes: N examples, B batch, K classes, Z of the noise.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import Count, NotNegative, Positive
from kd_research.models.capture import Capture
from kd_research.records.printing import SPOKEN
from kd_research.transfer.kept import Kept
from kd_research.transfer.size import refuse_what_cannot_fit

log = logging.getLogger(SPOKEN)
FEATURE = "pool"  # what the head sees, in all families


class Generator(nn.Module):
    """DAFL's: noise to a quarter of the image's sides, twice enlarged, with 3x3 convolutions.

    Args:
        shape: (channels, height, width) of an image, sides that are multiples of 4.
        noise: Z.
        width: channels of the first two maps; the third has half of them.
    """

    def __init__(self, shape: Sequence[int], noise: int, width: int):
        super().__init__()
        channels, height, across = shape
        self.first = nn.Linear(noise, width * (height // 4) * (across // 4))
        self.unflatten = nn.Unflatten(1, (width, height // 4, across // 4))
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width, 0.8),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2, 0.8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """(B, Z) -> (B, *shape), of mean 0 and deviation 1."""
        images: Tensor = self.layers(self.unflatten(self.first(noise)))
        return images


@dataclass(frozen=True)
class Generated:
    """Images of a generator (DAFL; Chen et al. 2019, arXiv:1904.01186, section 3).

    It is trained so that the teacher is sure of each image (one-hot loss), its features are active,
    and all classes come about equally often (information entropy). In the paper the student learns
    in the same loop; here the generator is trained first, and the student then sees N of its
    images.

    Args:
        num_examples: N.
        steps: of training the generator; the paper 200 epochs of 120.
        batch_size: B; the paper 512.
        noise: Z; the paper 100.
        width: of the generator; the authors' 128.
        lr: of Adam; ours.
        activation_weight: of the features' mean absolute value; the paper's alpha, 0.1.
        entropy_weight: the paper's beta, 5.

    Raises:
        ValueError: a value that is not of its kind, all of them at once.
    """

    num_examples: Count = 24000
    steps: Count = 24000
    batch_size: Annotated[int, ">= 2"] = 512
    noise: Count = 100
    width: Annotated[int, ">= 2"] = 128
    lr: Positive = 1e-3
    activation_weight: NotNegative = 0.1
    entropy_weight: NotNegative = 5.0

    def __post_init__(self) -> None:
        wholes = {"num_examples": 1, "steps": 1, "batch_size": 2, "noise": 1, "width": 2}
        problems = [
            f"transfer.{name} must be a whole number >= {least}, got {getattr(self, name)}"
            for name, least in wholes.items()
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= least)
        ]
        if not self.lr > 0:
            problems.append(f"transfer.lr must be > 0, got {self.lr}; try 0.001")
        problems += [
            f"transfer.{name} must be >= 0, got {getattr(self, name)}"
            for name in ("activation_weight", "entropy_weight")
            if not getattr(self, name) >= 0
        ]
        if problems:
            raise ValueError("\n".join(problems))

    def check(self, shape: Sequence[int], teacher: nn.Module, num_classes: int) -> None:
        """Raise ValueError where it does not fit teacher or images, or into memory."""
        layers = dict(teacher.named_modules())
        if self.activation_weight and FEATURE not in layers:
            raise ValueError(
                f"transfer.activation_weight is of the teacher's layer {FEATURE}, and this one has "
                "none of that name; type transfer.activation_weight=0"
            )
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
            raise ValueError(
                f"transfer=generator makes images whose sides are multiples of 4, an example here "
                f"is {[*shape]}; try transfer=class_impressions"
            )
        refuse_what_cannot_fit(self.num_examples, 1, shape)

    def __call__(
        self,
        teacher: nn.Module,
        shape: Sequence[int],
        num_classes: int,
        seed: int,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prepared images (N, *shape) and the teacher's classes of them (N,), both on the CPU.

        Args:
            teacher: frozen, on its device.
            shape: of one example.
            num_classes: K.
            seed: of the generator and of the noise.
            kept: the generator as far as it was trained before.
        """
        device = next(teacher.parameters()).device
        draws = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = Generator(shape, self.noise, self.width).to(device)
        self._train(made, teacher, draws, device, kept)
        images, labels = [], []
        made.eval()
        with torch.no_grad():
            for start in range(0, self.num_examples, self.batch_size):
                size = min(self.batch_size, self.num_examples - start)
                drawn = made(torch.randn(size, self.noise, generator=draws).to(device))
                images.append(drawn.cpu())
                labels.append(teacher(drawn).argmax(dim=1).cpu())
        return torch.cat(images), torch.cat(labels)

    def _train(
        self,
        made: Generator,
        teacher: nn.Module,
        draws: torch.Generator,
        device: torch.device,
        kept: Kept | None,
    ) -> None:
        see = Capture(teacher, [FEATURE] if self.activation_weight else [])
        optimizer = torch.optim.Adam(made.parameters(), lr=self.lr)
        first = 0
        if kept and (before := kept.get("generator")):
            made.load_state_dict(before["made"])
            optimizer.load_state_dict(before["optimizer"])
            draws.set_state(before["draws"])
            first = before["steps"]
        with torch.enable_grad():
            for step in range(first, self.steps):
                images = made(torch.randn(self.batch_size, self.noise, generator=draws).to(device))
                output = see(images)
                feature = output.features.get(FEATURE)
                loss = self.loss(output.logits, feature)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if step % max(1, self.steps // 20) == 0:
                    log.info("generator: step %d of %d, loss %.3g", step, self.steps, loss.item())
                if kept and kept.is_due:
                    state = {"made": made.state_dict(), "optimizer": optimizer.state_dict()}
                    kept.put("generator", **state, draws=draws.get_state(), steps=step + 1)
        see.close()

    def loss(self, logits: Tensor, feature: Tensor | None) -> Tensor:
        """The three terms, ().

        Args:
            logits: (B, K), the teacher's.
            feature: (B, D), what its head sees; None where it has no weight.
        """
        sure = F.cross_entropy(logits, logits.argmax(dim=1))
        share = logits.softmax(dim=1).mean(dim=0).clamp_min(1e-12)
        total = sure + self.entropy_weight * (share * share.log()).sum()
        if feature is not None:
            total = total - self.activation_weight * feature.abs().mean()
        return total
