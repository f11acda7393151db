"""Data with many labelled positions an example, and models for them: tokens of text, pixels."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tiny import Compose
from torch import Tensor, nn

from kd_research.data.sources import Split, Splits
from kd_research.losses.positions import IGNORED

VOCABULARY, CONTEXT, NUM_MASK_CLASSES = 11, 12, 3


def tokens(num_windows: int = 96, prompt: bool = True, barren: int = 0) -> Splits:
    """Windows of a text in which token t + 1 is mostly 3 * token t + 1, modulo the vocabulary.

    Args:
        num_windows: of training; validation and test have a quarter.
        prompt: whether the first positions, another number in each window, are not learnt.
        barren: how many training windows have nothing to learn.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(num: int, empty: int = 0) -> Split:
        text = torch.randint(VOCABULARY, (num, CONTEXT + 1), generator=generator)
        for place in range(CONTEXT):
            follows = torch.rand(num, generator=generator) < 0.8
            text[follows, place + 1] = (3 * text[follows, place] + 1) % VOCABULARY
        labels = text[:, 1:].clone()
        if prompt:
            lengths = torch.randint(0, CONTEXT - 2, (num, 1), generator=generator)
            labels[torch.arange(CONTEXT) < lengths] = IGNORED
        labels[:empty] = IGNORED
        return Split({"input_ids": text[:, :-1].clone()}, labels)

    rest = num_windows // 4
    return Splits(draw(num_windows, barren), draw(rest), draw(rest), tokenizer=Letters())  # type: ignore[arg-type]


def masks() -> Splits:
    """(1, 8, 8) pictures of one bright and one dark rectangle; the label of each pixel is which."""
    generator = torch.Generator().manual_seed(0)

    def draw(num: int) -> Split:
        pictures = torch.randn(num, 1, 8, 8, generator=generator) * 0.3
        labels = torch.zeros(num, 8, 8, dtype=torch.int64)
        for picture, label in zip(pictures, labels, strict=True):
            for value, sign in ((1, 1.0), (2, -1.0)):
                row, column = torch.randint(0, 5, (2,), generator=generator).tolist()
                picture[0, row : row + 4, column : column + 4] = sign + 0.3 * torch.randn(
                    4, 4, generator=generator
                )
                label[row : row + 4, column : column + 4] = value
        labels[:, 0] = IGNORED  # as the borders of objects are, in sets of this kind
        return Split(pictures, labels)

    return Splits(draw(64), draw(16), draw(16))


class Letters:
    """Decodes token ids as letters, as `tokenizers` would."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + each) for each in ids)

    def save(self, path: str) -> None:
        """As of `tokenizers`; this one has nothing to keep."""


class CachedNet(nn.Module):
    """A decoder of one layer of attention, called as Hugging Face's are, with a cache."""

    def __init__(self, width: int, num_classes: int = VOCABULARY, heads: int = 2):
        super().__init__()
        self.embed, self.heads = nn.Embedding(num_classes, width), heads
        self.project = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, num_classes)

    def forward(
        self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False
    ) -> Any:
        shape = (*input_ids.shape, self.heads, -1)
        query, key, value = (
            part.view(shape).transpose(1, 2)
            for part in self.project(self.embed(input_ids)).chunk(3, dim=2)
        )
        if past_key_values is not None:
            (before,) = past_key_values
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        causal = input_ids.shape[1] > 1
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        logits = self.head(mixed.transpose(1, 2).flatten(2))
        return {"logits": logits, "past_key_values": [(key, value)]} if use_cache else logits


class TokenNet(nn.Module):
    """(B, T) token ids -> (B, T, V): an embedding, a causal mean of what came before, an MLP."""

    def __init__(self, width: int, num_classes: int = VOCABULARY):
        super().__init__()
        self.embed = nn.Embedding(num_classes, width)
        self.mix = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, input_ids: Tensor) -> Tensor:
        own = self.embed(input_ids)
        past = own.cumsum(1) / torch.arange(1, own.shape[1] + 1, device=own.device)[:, None]
        logits: Tensor = self.head(self.mix(torch.cat([own, past], dim=2)).relu())
        return logits


class MaskNet(nn.Module):
    """(B, 1, H, W) -> (B, C, H, W), fully convolutional."""

    def __init__(self, width: int, num_classes: int = NUM_MASK_CLASSES):
        super().__init__()
        self.body = nn.Conv2d(1, width, 3, padding=1)
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(pictures).relu())
        return logits


def with_positions(
    compose: Compose, *overrides: str, kind: str = "tokens", **source: Any
) -> DictConfig:
    """The tiny configuration on one of the two kinds of data, with a net that fits it."""
    config = compose("dataset.batch_size=16", *overrides)
    net, classes = ("TokenNet", VOCABULARY) if kind == "tokens" else ("MaskNet", NUM_MASK_CLASSES)
    own = {
        "name": kind,
        "source": {"_target_": f"positions_data.{kind}", "_partial_": True, **source},
        "num_classes": classes,
        "input_shape": None if kind == "tokens" else [1, 8, 8],
        "mean": None,
        "std": None,
    }
    OmegaConf.set_struct(config, False)
    config.dataset = {**OmegaConf.to_container(config.dataset), **own}
    for who, width in (("teacher", 32), ("student", 8)):
        if config[who].model:
            config[who].model = {"_target_": f"positions_data.{net}", "width": width}
    return config
