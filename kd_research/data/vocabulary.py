"""Tokenizers for language models: bytes, characters or byte pairs of the training part, or any.

Unlike those of `text.py`, which serve classifiers, they lose nothing: what is decoded is the text.
All are `tokenizers.Tokenizer`, with `encode`, `decode` and `get_vocab_size`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kd_research.data.checks import is_whole
from kd_research.data.store import file_digest
from kd_research.data.text import open_pretrained, tokenizer_file

if TYPE_CHECKING:
    import tokenizers

KINDS = ("byte", "char", "bpe", "pretrained")


@dataclass(frozen=True)
class Vocabulary:
    """How text becomes token ids.

    Attributes:
        kind: "byte" (256 ids), "char" (the training part's characters), "bpe" (byte pairs learnt
            from the training part; Sennrich et al. 2016, arXiv:1508.07909), or "pretrained".
        vocab_size: the number of ids that the models are made for, at least the tokenizer's.
        end_of_text: the token after each document; of its own tokenizers one more id. None: there
            is none, as for a single text without end.
        pretrained: a Hub name, a folder, or a `tokenizer.json`.

    Raises:
        ValueError: an unknown kind, a number below 2, or `pretrained` without its kind.
    """

    kind: str
    vocab_size: int
    end_of_text: str | None = None
    pretrained: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in KINDS:
            problems.append(
                f"dataset.tokens must be one of {', '.join(KINDS)}, got {self.kind!r}; "
                "try dataset.tokens=byte"
            )
        if (self.kind == "pretrained") != (self.pretrained is not None):
            problems.append(
                f"dataset.tokens={self.kind} with dataset.pretrained={self.pretrained}; "
                "type both: dataset.tokens=pretrained dataset.pretrained=NAME, or neither"
            )
        if not is_whole(self.vocab_size, 2):
            problems.append(
                f"dataset.vocab_size must be a whole number >= 2, got {self.vocab_size}; "
                "try dataset.vocab_size=257, as tokens=byte needs"
            )
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def content(self) -> list[Any]:
        """What decides the ids, as far as it is known before the text is read: a JSON value."""
        path = None if self.pretrained is None else tokenizer_file(self.pretrained)
        digest = file_digest(path) if path is not None and path.is_file() else None
        return [self.kind, self.vocab_size, self.end_of_text, self.pretrained, digest]

    def make(self, texts: Sequence[str]) -> tokenizers.Tokenizer:
        """The tokenizer.

        Args:
            texts: the training part's.

        Raises:
            FileNotFoundError: the pretrained tokenizer is not there.
            ValueError: it has more ids than `vocab_size`, or no such end of text.
        """
        if self.pretrained is not None:
            tokenizer = open_pretrained(self.pretrained)
            tokenizer.no_padding()
            tokenizer.no_truncation()
        else:
            tokenizer = {"byte": _bytes, "char": _characters, "bpe": self._pairs}[self.kind](texts)
            if self.end_of_text is not None:
                tokenizer.add_special_tokens([self.end_of_text])
        if self.end_of_text is not None and tokenizer.token_to_id(self.end_of_text) is None:
            special = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
            raise ValueError(
                f"the tokenizer {self.pretrained!r} has no token {self.end_of_text!r} to end a "
                f"text with; its special tokens are {', '.join(special[:10]) or 'none'}; "
                "type dataset.end_of_text=TOKEN"
            )
        found = tokenizer.get_vocab_size()
        if found > self.vocab_size:
            raise ValueError(
                f"the tokenizer has {found} ids, dataset.vocab_size={self.vocab_size}; "
                f"type dataset.vocab_size={found}"
            )
        return tokenizer

    def _pairs(self, texts: Sequence[str]) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        least = 256 + (self.end_of_text is not None) + 1
        if self.vocab_size < least:
            raise ValueError(
                f"dataset.tokens=bpe needs dataset.vocab_size >= {least}: all bytes are ids of "
                f"their own; got {self.vocab_size}"
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=self.vocab_size - (self.end_of_text is not None),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer


def _bytes(texts: Sequence[str]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _characters(texts: Sequence[str]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, decoders, models

    letters = sorted(set().union(*map(set, texts)))
    vocabulary = {letter: at for at, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))  # pairs without a pair: 5 x WordLevel's speed
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def refuse_unknown(
    tokenizer: tokenizers.Tokenizer, kind: str, split: str, texts: Iterable[str]
) -> None:
    """Let only text through that the tokenizer can say.

    Raises:
        ValueError: characters that the training part has not; it names them.
    """
    if kind != "char":
        return
    known = {token for token in tokenizer.get_vocab() if len(token) == 1}
    if unknown := sorted(set().union(*map(set, texts)) - known):
        raise ValueError(
            f"the {split} part has {len(unknown)} characters that the training part has not: "
            f"{', '.join(map(repr, unknown[:10]))}; type dataset.tokens=byte dataset.vocab_size=257"
        )


def encode(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Of each text its ids, (L,), and the bytes of UTF-8 that each id adds to the text, (L,).

    The bytes of a text's ids are all of the text's, whatever the tokenizer leaves out. A text
    without an id has none.
    """
    found = []
    for text, encoding in zip(
        texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True
    ):
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
        upto = np.concatenate([[0], np.cumsum(sizes)])  # bytes before each character
        ends = np.fromiter((end for _, end in encoding.offsets), np.int64, len(encoding.ids))
        covered = upto[np.maximum.accumulate(ends)] if len(ends) else ends
        if len(covered):
            covered[-1] = upto[-1]
        added = np.diff(covered, prepend=0).astype(np.int32)
        found.append((np.array(encoding.ids, dtype=np.int32), added))
    return found
