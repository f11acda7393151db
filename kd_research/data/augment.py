"""Augmentation as a pure function of (seed, view, index), in whole batches, on the images' device.

A view is a number: the epoch, or the epoch modulo the number of kept views. No global random
state is read or moved, so an example looks the same whichever worker, process or batch asks for
it, and what a teacher said of a view stays true of it (`soft_targets.py`).

Mixed labels: under mixup or CutMix a batch's `labels` are (B, C) float32 probabilities instead of
(B,) int64. `Objective`'s cross-entropy takes both; a loss that wants the class says so.

Shapes: B batch, K draws per example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_research.data import crops
from kd_research.data.checks import are_numbers, is_number, is_whole

# Columns of an example's draws: each use has its own, so that turning one on moves no other.
_CROP_Y, _CROP_X, _FLIP, _HOLE_Y, _HOLE_X, _PARTNER, _WEIGHT, _BOX_Y, _BOX_X = range(9)
_KIND, _COLOUR = 9, 10
_NUM_DRAWS = 11
_GOLDEN = 0x9E3779B97F4A7C15
_QUANTILES = 4096


def _signed(value: int) -> int:
    """The 64 bits of `value` as Python's and torch's signed integer."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014); int64 products wrap around."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def hash_bits(seed: int, view: int, index: Tensor, num_draws: int) -> Tensor:
    """Sixty-four well-mixed bits per example and draw: (B, num_draws) int64.

    A function of its arguments alone: row i does not depend on the other rows.
    """
    state = torch.tensor([_signed(seed * _GOLDEN + 1)], dtype=torch.int64)
    key = int(_mix(_mix(state) + _signed(view * _GOLDEN)))
    draw = torch.arange(1, num_draws + 1, device=index.device) * _signed(_GOLDEN)
    return _mix(_mix(index.to(torch.int64) * _signed(_GOLDEN) + key).unsqueeze(1) + draw)


def uniform(bits: Tensor) -> Tensor:
    """The bits' upper 24 as float32 in [0, 1)."""
    return ((bits >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Windows of the images' own size out of the images padded with zeros, some mirrored.

    Args:
        images: (B, C, H, W), any dtype.
        top: (B,) int64 in [0, 2 * padding], the window's first row in the padded image.
        left: (B,) int64, its first column.
        flip: (B,) bool, whether left and right are exchanged.
        padding: pixels on each side.
    """
    num, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4) if padding else images
    rows = top.unsqueeze(1) + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    columns = left.unsqueeze(1) + torch.where(flip.unsqueeze(1), width - 1 - across, across)
    position = (rows.unsqueeze(2) * (width + 2 * padding) + columns.unsqueeze(1)).view(num, 1, -1)
    gathered = padded.flatten(2).gather(2, position.expand(num, channels, -1))
    return gathered.view(num, channels, height, width)


def _inside(
    centre_y: Tensor, centre_x: Tensor, height: Tensor, width: Tensor, like: Tensor
) -> Tensor:
    """(B, 1, H, W) bool: the pixels of the box about each centre, clipped at the border."""
    y = torch.arange(like.shape[2], device=like.device)
    x = torch.arange(like.shape[3], device=like.device)
    top, left = centre_y - height // 2, centre_x - width // 2
    in_y = (y >= top.unsqueeze(1)) & (y < (top + height).unsqueeze(1))
    in_x = (x >= left.unsqueeze(1)) & (x < (left + width).unsqueeze(1))
    return (in_y.unsqueeze(2) & in_x.unsqueeze(1)).unsqueeze(1)


def _refused(augment: Augment, name: str, kind: str, example: str) -> ValueError:
    return ValueError(
        f"augment.{name} must be {kind}, got {getattr(augment, name)}; "
        f"try ++dataset.augment.{name}={example}"
    )


@dataclass(frozen=True)
class Augment:
    """What is done to a training example; the defaults do nothing.

    Args:
        seed: of all draws.
        resized_crop: the least and the largest share of an image's area that a random box has;
            it is then brought to the input's size (`crops.py`). [0.08, 1] is ImageNet's, None off.
        crop: pixels of zero padding before a random crop to the original size; a jitter by up to
            `crop` whole pixels (Hinton et al. 2015, section 3) is the same thing.
        flip: mirror half of the examples.
        cutout: side of a square set to 0, the mean, after normalisation (DeVries, Taylor 2017,
            arXiv:1708.04552); its centre is any pixel, so that part of it may be outside.
        mixup: a of the Beta(a, a) weight of mixup (Zhang et al. 2018, arXiv:1710.09412); 0 is off.
        cutmix: a of the Beta(a, a) area of CutMix (Yun et al. 2019, arXiv:1905.04899); 0 is off.
            With both on, each example takes one of them with probability 1/2.
        colour: anything that turns a (1, C, H, W) float image in [0, 1] into another, such as
            `kornia.augmentation.RandomChannelShuffle` or `kornia.augmentation.auto.RandAugment`;
            called once per example, with torch's random state set for it and put back after.

    Raises:
        ValueError: a value that is not of its kind, with what to type.
    """

    seed: int = 0
    crop: int = 0
    flip: bool = False
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    colour: Callable[[Tensor], Tensor] | None = None
    resized_crop: Sequence[float] | None = None
    _beta: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            if not is_whole(getattr(self, name)):
                raise _refused(self, name, "a whole number of pixels >= 0", "4")
        for name in ("mixup", "cutmix"):
            if not is_number(value := getattr(self, name)) or value < 0:
                raise _refused(self, name, "a number >= 0", "0.2")
        if not isinstance(self.flip, bool):
            raise _refused(self, "flip", "true or false", "true")
        if self.colour is not None and not callable(self.colour):
            raise _refused(
                self,
                "colour",
                "something to call",
                "{_target_: kornia.augmentation.RandomChannelShuffle}",
            )
        area = self.resized_crop
        if area is not None and not (are_numbers(area, 2) and 0 < area[0] <= area[1] <= 1):
            raise _refused(
                self, "resized_crop", "two shares in (0, 1], the smaller first", "[0.08,1]"
            )
        for name in ("mixup", "cutmix"):
            if shape := getattr(self, name):
                import scipy.stats  # half a second that only this needs

                middle = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
                table = scipy.stats.beta.ppf(middle.numpy(), shape, shape)
                self._beta[name] = torch.as_tensor(table, dtype=torch.float32)

    @property
    def changes(self) -> bool:
        """Whether any example looks different in some view."""
        parts = (self.resized_crop, self.crop, self.flip, self.cutout, self.mixup, self.cutmix)
        return any(parts) or self.colour is not None

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed, so that labels are probabilities."""
        return self.mixup > 0 or self.cutmix > 0

    def draws(self, index: Tensor, view: int) -> Tensor:
        """(B, K) int64: the random bits of these examples in this view."""
        return hash_bits(self.seed, view, index, _NUM_DRAWS)

    def partners(self, index: Tensor, view: int, num_examples: int) -> Tensor:
        """(B,) int64: the example of the split that each one is mixed with."""
        bits = self.draws(index, view)[:, _PARTNER]
        return ((bits >> 1) & 0x3FFFFFFFFFFFFFFF) % num_examples

    def move(
        self, images: Tensor, index: Tensor, view: int, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Crop and flip, before normalisation.

        Args:
            images: (B, C, H, W), any dtype, 0 is black.
            index: (B,) int64.
            view: >= 0.
            size: (height, width) of what `resized_crop` gives; None is the images' own.
        """
        if self.resized_crop:
            bits = hash_bits(self.seed, view, index, _NUM_DRAWS + crops.NUM_DRAWS)[:, _NUM_DRAWS:]
            height, width = images.shape[2:]
            boxes = crops.draw_boxes(uniform(bits), self.resized_crop, height, width)
            images = crops.resize_boxes(images, boxes, size or (height, width))
        if not (self.crop or self.flip):
            return images
        draws = uniform(self.draws(index, view))
        span = 2 * self.crop + 1
        top = (draws[:, _CROP_Y] * span).to(torch.int64)
        left = (draws[:, _CROP_X] * span).to(torch.int64)
        flip = draws[:, _FLIP] < (0.5 if self.flip else 0.0)
        return crop_flip(images, top, left, flip, self.crop)

    def recolour(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        """Apply `colour` to (B, C, H, W) float images in [0, 1]."""
        if self.colour is None:
            return images
        seeds = (self.draws(index, view)[:, _COLOUR] & 0x7FFFFFFF).tolist()
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            changed = []
            for image, seed in zip(images.unsqueeze(1), seeds, strict=True):
                torch.manual_seed(seed)
                changed.append(self.colour(image))
        return torch.cat(changed)

    def erase(self, images: Tensor, index: Tensor, view: int) -> Tensor:
        """Cutout on (B, C, H, W) normalised images."""
        if not self.cutout:
            return images
        draws = uniform(self.draws(index, view))
        side = torch.full_like(index, self.cutout)
        y = (draws[:, _HOLE_Y] * images.shape[2]).to(torch.int64)
        x = (draws[:, _HOLE_X] * images.shape[3]).to(torch.int64)
        return images.masked_fill(_inside(y, x, side, side, images), 0.0)

    def _weight(self, name: str, draws: Tensor) -> Tensor:
        table = self._beta[name].to(draws.device)
        return table[(draws[:, _WEIGHT] * _QUANTILES).to(torch.int64)]

    def mix(
        self,
        images: Tensor,
        labels: Tensor,
        other_images: Tensor,
        other_labels: Tensor,
        index: Tensor,
        view: int,
    ) -> tuple[Tensor, Tensor]:
        """Mixup or CutMix of each example with its partner.

        Args:
            images: (B, C, H, W), normalised, moved and erased.
            labels: (B, C) float32 probabilities.
            other_images: (B, C, H, W) of `partners`, in their own look of this view.
            other_labels: (B, C) float32.
            index: (B,) int64, of `images`.
            view: >= 0.

        Returns:
            The mixed images and labels, of the same shapes.
        """
        draws = uniform(self.draws(index, view))
        cuts = torch.full_like(draws[:, 0], float(self.cutmix > 0), dtype=torch.bool)
        if self.mixup and self.cutmix:
            cuts = draws[:, _KIND] < 0.5
        own = torch.ones_like(draws[:, 0])  # the share of the example itself
        mixed = images
        if self.mixup:
            own = torch.where(cuts, own, self._weight("mixup", draws))
            mixed = torch.lerp(other_images, images, own.view(-1, 1, 1, 1).to(images.dtype))
        if self.cutmix:
            height, width = images.shape[2:]
            ratio = (1 - self._weight("cutmix", draws)).sqrt() * cuts
            y = (draws[:, _BOX_Y] * height).to(torch.int64)
            x = (draws[:, _BOX_X] * width).to(torch.int64)
            box = _inside(y, x, (ratio * height).long(), (ratio * width).long(), images)
            mixed = torch.where(box, other_images, mixed)
            left_over = 1 - box.flatten(1).to(torch.float32).mean(dim=1)
            own = torch.where(cuts, left_over, own)
        return mixed, torch.lerp(other_labels, labels, own.unsqueeze(1))
