"""Text into token ids: a vocabulary made from the training part, or someone's own tokenizer.

Imports no torch, and `transformers` only where a pretrained tokenizer is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd_research.data.store import array_digest, create_array, file_digest

if TYPE_CHECKING:
    import datasets
    import tokenizers

TOKENIZER_NAME = "tokenizer.json"
PADDING, UNKNOWN = "[PAD]", "[UNK]"
_BATCH = 1000


@dataclass(frozen=True)
class Tokens:
    """How sentences become token ids; 0 is padding.

    Attributes:
        kind: "word" (split at white space and punctuation, lower case), "bpe" (byte-pair encoding,
            Sennrich et al. 2016, arXiv:1508.07909), both made from the training part, or
            "pretrained".
        vocab_size: the number of ids, an upper bound for "word" and "bpe".
        max_length: longer sentences are cut.
        pretrained: a tokenizer of Hugging Face: a Hub name, a folder, or a `tokenizer.json`.

    Raises:
        ValueError: an unknown kind, or a number below 3 ids or 1 token.
    """

    kind: str = "word"
    vocab_size: int = 10_000
    max_length: int = 128
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("word", "bpe", "pretrained"):
            raise ValueError(f"dataset.tokens must be word, bpe or pretrained, got {self.kind!r}")
        if (self.kind == "pretrained") != (self.pretrained is not None):
            raise ValueError(
                f"dataset.tokens={self.kind} with dataset.pretrained={self.pretrained}; "
                "type both: dataset.tokens=pretrained dataset.pretrained=NAME, or neither"
            )
        if self.vocab_size < 3 or self.max_length < 1:
            raise ValueError(
                "dataset.vocab_size must be >= 3 and dataset.max_length >= 1, got "
                f"{self.vocab_size} and {self.max_length}"
            )

    @property
    def content(self) -> str | None:
        """A digest of the pretrained tokenizer's file, where that is on this machine."""
        path = None if self.pretrained is None else tokenizer_file(self.pretrained)
        return file_digest(path) if path is not None and path.is_file() else None


def make_tokenizer(tokens: Tokens, texts: Iterator[list[str]]) -> tokenizers.Tokenizer:
    """The tokenizer that `tokens` describes.

    Args:
        tokens: the description.
        texts: the training part's sentences, in batches.

    Raises:
        FileNotFoundError: the pretrained tokenizer is not there.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    if tokens.pretrained is not None:
        return open_pretrained(tokens.pretrained)
    special = [PADDING, UNKNOWN]
    trainer: Any
    if tokens.kind == "word":
        tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(
            vocab_size=tokens.vocab_size, special_tokens=special, show_progress=False
        )
    else:
        tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=tokens.vocab_size, special_tokens=special, show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_file(name: str) -> Path:
    """Where a tokenizer on this machine is, given by its file or folder."""
    path = Path(name).expanduser()
    return path / TOKENIZER_NAME if path.is_dir() else path


def open_pretrained(name: str) -> tokenizers.Tokenizer:
    """Someone's tokenizer: a folder, a `tokenizer.json` or a Hub name.

    Raises:
        FileNotFoundError: it is not there.
    """
    import tokenizers

    path = tokenizer_file(name)
    if path.exists():
        return tokenizers.Tokenizer.from_file(str(path))
    try:
        return tokenizers.Tokenizer.from_pretrained(name)
    except Exception as error:  # the Rust side raises plain Exception
        raise FileNotFoundError(
            f"no tokenizer {name!r}: neither a folder with {TOKENIZER_NAME} nor found on the Hub "
            f"({error}); type dataset.pretrained=FOLDER"
        ) from error


def encode_splits(
    splits: Mapping[str, datasets.Dataset],
    column: str,
    tokens: Tokens,
    folder: Path,
    rows: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Write `SPLIT-inputs.npy`, (N, L) int32 padded with 0, and `tokenizer.json`; the meta data.

    The tokens are made from `rows` of the training split; None is all of it.

    A sentence without a token becomes one unknown token: no row is empty.

    Raises:
        ValueError: a sentence is missing, or the tokenizer has more ids than `tokens.vocab_size`.
    """
    texts = {split: rows.with_format(None)[column][:] for split, rows in splits.items()}
    for split, sentences in texts.items():
        missing = [at for at, sentence in enumerate(sentences) if not isinstance(sentence, str)]
        if missing:
            raise ValueError(
                f"{len(missing)} rows of the split {split!r} have no text in column {column!r}, "
                f"the first is row {missing[0]}; remove them"
            )
    train = texts["train"] if rows is None else [texts["train"][row] for row in rows]
    batches = (train[start : start + _BATCH] for start in range(0, len(train), _BATCH))
    tokenizer = make_tokenizer(tokens, batches)
    found = tokenizer.get_vocab_size()
    if found > tokens.vocab_size:
        raise ValueError(
            f"the tokenizer has {found} ids, the configuration says {tokens.vocab_size}; "
            f"type dataset.vocab_size={found}"
        )
    padding = next(
        (at for name in (PADDING, "<pad>") if (at := tokenizer.token_to_id(name)) is not None), 0
    )
    unknown = next(
        (
            at
            for name in (UNKNOWN, "<unk>", "<|endoftext|>")
            if (at := tokenizer.token_to_id(name)) is not None
        ),
        padding,
    )
    tokenizer.no_padding()
    tokenizer.enable_truncation(tokens.max_length)
    tokenizer.save(str(folder / TOKENIZER_NAME))
    meta: dict[str, Any] = {"kind": "text", "padding": padding, "splits": {}}
    for split, sentences in texts.items():
        ids = [encoding.ids or [unknown] for encoding in tokenizer.encode_batch(sentences)]
        lengths = np.array([len(row) for row in ids], dtype=np.int32)
        array = create_array(
            folder / f"{split}-inputs.npy", (len(ids), int(lengths.max())), "int32"
        )
        array[:] = padding
        for position, row in enumerate(ids):
            array[position, : len(row)] = row
        np.save(folder / f"{split}-lengths.npy", lengths)
        digest = array_digest(array)
        meta["splits"][split] = {
            "num": len(ids),
            "inputs": digest,
            "lengths": array_digest(lengths),
        }
    return meta
