"""The bytes of text that tokens stand for, and where two tokenizations of a text meet.

Imports no torch.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_research.data.vocabulary import encode

if TYPE_CHECKING:
    import tokenizers

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_bytes(tokenizer: tokenizers.Tokenizer) -> list[bytes]:
    """Of each token id its bytes; of special tokens, which are no text, none.

    Raises:
        ValueError: the tokenizer's decoder is none whose tokens stand for bytes.
    """
    decoder = json.loads(tokenizer.to_str())["decoder"] or {"type": "Fuse"}
    kinds = {decoder["type"], *(part["type"] for part in decoder.get("decoders", ()))}
    special = tokenizer.get_added_tokens_decoder()
    if "ByteLevel" in kinds:
        alphabet = _byte_letters()

        def of(token: str) -> bytes:
            return bytes(alphabet[letter] for letter in token)
    elif kinds <= {"Fuse", "Metaspace", "Sequence", "Replace", "ByteFallback", "Strip"}:
        spaced = bool(kinds & {"Metaspace", "Replace"})

        def of(token: str) -> bytes:
            if found := _BYTE.fullmatch(token):
                return bytes([int(found[1], 16)])
            return (token.replace("\u2581", " ") if spaced else token).encode()
    else:
        raise ValueError(
            f"a tokenizer with the decoder {decoder['type']} does not say which bytes a token is; "
            "type dataset.tokens=bpe, byte or char, or a byte-level or SentencePiece tokenizer"
        )
    tokens = {place: token for token, place in tokenizer.get_vocab().items()}
    return [
        b"" if place in special or place not in tokens else of(tokens[place])
        for place in range(max(tokens) + 1)
    ]


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with (Radford et al. 2019)."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    found = {chr(byte): byte for byte in kept}
    return found | {chr(256 + place): byte for place, byte in enumerate(others)}


def read_again(
    pieces: list[bytes], tokenizer: tokenizers.Tokenizer
) -> tuple[list[int], NDArray[np.int64]]:
    """A text in another tokenizer's tokens, and where the two have read the same bytes.

    Args:
        pieces: the bytes of each token of the text, as the first tokenizer cuts it.
        tokenizer: the other one.

    Returns:
        The other's token ids, and for each piece the place of the other's token that ends on
        the same byte; -1 where none does. A text that is no UTF-8 has none; bytes of a character
        that is cut at its beginning or end are left out.
    """
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    raw = b"".join(pieces)
    begin = 0
    while begin < min(3, len(raw)) and raw[begin] & 0xC0 == 0x80:
        begin += 1
    try:
        text = raw[begin:].decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return [], np.full(len(pieces), -1, np.int64)
        text = raw[begin : begin + error.start].decode()
    if not text:
        return [], np.full(len(pieces), -1, np.int64)
    ((ids, added),) = encode(tokenizer, [text])
    theirs = begin + np.cumsum(added, dtype=np.int64)
    places = np.searchsorted(theirs, ends, side="right") - 1
    meets = (places >= 0) & (theirs[places] == ends)
    return ids.tolist(), np.where(meets, places, -1)
