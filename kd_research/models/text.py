"""Small text classifiers, trained from scratch on token ids.

All are called as `model(input_ids=..., attention_mask=...)`, as Hugging Face models are. Padding
does not change a logit beyond rounding: what the mask leaves out is never averaged, read or
attended to.

Shapes: B batch, L tokens (padded), W width, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kd_research.models.layers import check_width


def masked_mean(x: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean of (B, L, W) over the tokens whose mask is not 0: (B, W); 0 where there is none."""
    weight = attention_mask.to(x.dtype)
    total = torch.bmm(weight.unsqueeze(1), x).squeeze(1)
    return total / weight.sum(dim=1, keepdim=True).clamp_min(1)


class BagOfEmbeddings(nn.Module):
    """The mean of the tokens' embeddings, then a linear layer or a small MLP.

    Args:
        num_classes: C.
        vocab_size: number of token ids; id 0 is padding.
        width: W, of the embeddings and of the hidden layers.
        depth: number of hidden layers, 0 for none.
        dropout: of the mean, in [0, 1).
    """

    def __init__(
        self, num_classes: int, vocab_size: int, width: int, depth: int = 0, dropout: float = 0.0
    ):
        super().__init__()
        width = check_width(width)
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.stages = nn.Sequential(
            *(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth))
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L), (B, L) -> (B, C)."""
        mean = masked_mean(self.embedding(input_ids), attention_mask)
        return self.head(self.stages(self.dropout(mean)))  # type: ignore[no-any-return]


class BiLSTM(nn.Module):
    """A bidirectional LSTM; the mean of its outputs is classified.

    Args:
        num_classes: C.
        vocab_size: number of token ids; id 0 is padding.
        width: of the embeddings and of each direction's state.
        depth: number of LSTM layers.
        dropout: of the embeddings and of the mean, in [0, 1).
    """

    def __init__(
        self, num_classes: int, vocab_size: int, width: int, depth: int = 1, dropout: float = 0.0
    ):
        super().__init__()
        width = check_width(width)
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L), (B, L) -> (B, C); the mask is 1 on a prefix of each row."""
        lengths = attention_mask.sum(dim=1).clamp_min(1).cpu()
        packed = pack_padded_sequence(
            self.dropout(self.embedding(input_ids)), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=input_ids.shape[1]
        )
        return self.head(self.dropout(masked_mean(states, attention_mask)))  # type: ignore[no-any-return]


class TextTransformer(nn.Module):
    """A pre-norm transformer encoder (Vaswani et al. 2017, arXiv:1706.03762).

    Positions are the paper's sines; the mean over tokens is classified. `stages.i` gives the
    tokens (B, L, W) after each layer.

    Args:
        num_classes: C.
        vocab_size: number of token ids; id 0 is padding.
        width: W, a multiple of `heads`.
        depth: number of layers.
        heads: attention heads.
        dropout: in [0, 1).

    Raises:
        ValueError: heads does not divide width, or width is odd.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int,
        width: int,
        depth: int,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        width = check_width(width)
        if width % heads or width % 2:
            raise ValueError(
                f"width must be even and a multiple of heads={heads}, got {width}; "
                f"try width={math.ceil(width / (2 * heads)) * 2 * heads}"
            )
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.stages = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        self.width = width

    def _positions(self, length: int, device: torch.device) -> Tensor:
        position = torch.arange(length, device=device, dtype=torch.float32).unsqueeze(1)
        half = torch.arange(self.width // 2, device=device, dtype=torch.float32)
        angle = position * torch.exp(half * (-2 * math.log(10000.0) / self.width))
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L), (B, L) -> (B, C)."""
        x = self.embedding(input_ids) * math.sqrt(self.width)
        x = x + self._positions(input_ids.shape[1], x.device).to(x.dtype)
        ignored = attention_mask == 0
        for stage in self.stages:
            x = stage(x, src_key_padding_mask=ignored)
        return self.head(masked_mean(self.norm(x), attention_mask))  # type: ignore[no-any-return]
