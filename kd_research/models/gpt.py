"""A small GPT: a pre-norm transformer decoder that says of each position what comes next.

The shape of nanoGPT (Karpathy 2022) and GPT-2 (Radford et al. 2019): learnt positions, GELU, four
times as wide inside, no bias by default, the head's weights those of the embedding (Press, Wolf
2017, arXiv:1608.05859). Query, key and value are layers of their own, so that a loss can name them.

Shapes: B batch, T positions, V tokens of the vocabulary, W width, H heads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_research.interfaces import same_document
from kd_research.models.layers import check_width

KeyValues = list[tuple[Tensor, Tensor]]  # of each layer, (B, H, T, W / H)


class Attention(nn.Module):
    """Causal self-attention over the heads, by torch's scaled dot product."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool):
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=bias) for _ in range(4)
        )
        self.heads, self.dropout = heads, dropout

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(
        self, x: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, W) -> the same, and the keys and values of all positions up to here."""
        query, key, value = map(self._split, (self.query(x), self.key(x), self.value(x)))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask is None and past is None,
        )
        return self.out(mixed.transpose(1, 2).flatten(2)), (key, value)


class Block(nn.Module):
    """Attention, then a layer of four times the width; each normalises its input and adds to it."""

    def __init__(self, width: int, heads: int, dropout: float, bias: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, dropout, bias)
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, W) -> the same, and this layer's keys and values."""
        mixed, present = self.attention(self.norm1(x), mask, past)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x))))), present


class GPT(nn.Module):
    """A decoder of `depth` blocks; `stages.i` gives (B, T, W) after each of them.

    Args:
        vocab_size: V.
        context: the most positions that it sees.
        depth: blocks.
        width: W, a multiple of `heads`.
        heads: H.
        dropout: in [0, 1), of the embeddings, the attention and what each block adds.
        bias: whether linear and norm layers have one, as GPT-2's.

    Raises:
        ValueError: heads does not divide width.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        depth: int,
        width: int,
        heads: int,
        dropout: float = 0.0,
        bias: bool = False,
    ):
        super().__init__()
        width = check_width(width)
        if width % heads:
            raise ValueError(
                f"width must be a multiple of heads={heads}, got {width}; "
                f"try width={math.ceil(width / heads) * heads}"
            )
        self.context = context
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.stages = nn.ModuleList(Block(width, heads, dropout, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:  # what adds to the stream is scaled by its 2 * depth summands
                into_stream = name.endswith(("attention.out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) ** into_stream)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        past_key_values: KeyValues | None = None,
        use_cache: bool = False,
        attention_mask: Tensor | None = None,
    ) -> Tensor | dict[str, Any]:
        """(B, T) -> logits (B, T, V), called as Hugging Face's decoders are.

        Args:
            input_ids: (B, T) token ids.
            position_ids: (B, T), 0 at the start of each document that is packed into a row: no
                position sees another document. None is one document a row. With an attention
                mask a row is one document, and these are its positions.
            past_key_values: what an earlier call gave for the positions before these.
            use_cache: also give the keys and values: {"logits", "past_key_values"}.
            attention_mask: (B, positions before these + T), 0 at the padding, which is on the left:
                positions count what is not padding. None: there is none.

        Raises:
            ValueError: more than `context` positions, or packed documents with a cache.
        """
        done = past_key_values[0][0].shape[2] if past_key_values else 0
        length = input_ids.shape[1]
        if done + length > self.context:
            raise ValueError(
                f"{done + length} positions are more than the model's context of {self.context}; "
                "cut the text, or make the model with a larger context"
            )
        if done and position_ids is not None and attention_mask is None:
            raise ValueError("a cache holds one document a row: give no position_ids with it")
        if attention_mask is not None and position_ids is None:
            position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, done:]
        if position_ids is None:
            where = self.positions.weight[done : done + length]
        else:
            where = self.positions(position_ids)
        mask = None
        if attention_mask is not None or (done and length > 1):
            shape = (length, done + length)
            mask = torch.ones(shape, dtype=torch.bool, device=input_ids.device).tril(done)
            if attention_mask is not None:  # padding sees itself: a row of nothing would be NaN
                own = torch.eye(*shape, dtype=torch.bool, device=mask.device).roll(done, 1)
                mask = (mask & attention_mask[:, None, None, :].bool()) | own
        elif position_ids is not None:
            mask = same_document(position_ids)
        x = self.dropout(self.embedding(input_ids) + where)
        presents: KeyValues = []
        for number, stage in enumerate(self.stages):
            x, present = stage(x, mask, past_key_values[number] if past_key_values else None)
            presents.append(present)
        logits: Tensor = self.head(self.norm(x))
        return {"logits": logits, "past_key_values": presents} if use_cache else logits
