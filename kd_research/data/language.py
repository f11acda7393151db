"""Data modules for language models: windows of text, and prompts with their completions.

`settings` are `DataModule`'s own arguments, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from kd_research.data.checks import is_whole
from kd_research.data.decode import read_meta
from kd_research.data.documents import Cuts, Document, read_instructions, read_texts
from kd_research.data.hub import Source, fingerprint
from kd_research.data.module import DataModule
from kd_research.data.sources import Split, Splits, content_of
from kd_research.data.store import build_once, content_key, open_array
from kd_research.data.text import TOKENIZER_NAME
from kd_research.data.vocabulary import Vocabulary
from kd_research.data.windows import VERSION, write_windows

ROWS = ("documents", "lines")
LONG_PROMPTS = ("refuse", "leave_out")


def windows(
    root: str | None,
    path: str | None,
    config_name: str | None,
    splits: Mapping[str, str | None],
    input_column: str | None,
    rows: str,
    tokens: str,
    vocab_size: int,
    end_of_text: str | None,
    pretrained: str | None,
    context: int,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    store: str,
    random_windows: bool = False,
    **settings: Any,
) -> DataModule:
    """Text in windows of `context` tokens, each position's label the token after it.

    Args:
        root: a local folder of Parquet, JSON lines or plain text; goes before `path`.
        path: a Hub name.
        config_name: the Hub set's configuration.
        splits: train, validation, test -> the set's own names; a null leaves one out.
        input_column: of the text; None infers it.
        rows: "documents", or "lines" where a split's rows are the lines of one text.
        tokens: "byte", "char" or "bpe", made from the training part, or "pretrained".
        vocab_size: number of token ids, at most.
        end_of_text: the token after each document; None for a single text.
        pretrained: a folder, file or Hub name of a Hugging Face tokenizer.
        context: T, positions of a window.
        val_fraction: of the documents, where no validation split is published.
        test_fraction: of the documents, where no test split is published.
        split_seed: of these cuts.
        store: the folder of decoded sets.
        random_windows: whether training windows begin anywhere in the text, anew each epoch.
        settings: DataModule's; its num_classes is the vocabulary's size.

    Raises:
        ValueError: a setting is out of its range.
    """
    if rows not in ROWS:
        raise ValueError(
            f"dataset.rows must be {' or '.join(ROWS)}, got {rows!r}; try dataset.rows=documents"
        )
    source = Source(root, path, config_name, dict(splits), input_column)
    cuts = Cuts(val_fraction, test_fraction, split_seed)
    vocabulary = Vocabulary(tokens, vocab_size, end_of_text, pretrained)
    read = partial(read_texts, source, rows, cuts)
    how = [rows, repr(cuts)]
    if not isinstance(random_windows, bool):
        raise ValueError(
            f"dataset.random_windows must be true or false, got {random_windows!r}; "
            "try dataset.random_windows=false"
        )
    settings["random_windows"] = random_windows
    return _module(source, read, how, vocabulary, context, "refuse", Path(store), settings)


def instructions(
    root: str | None,
    path: str | None,
    config_name: str | None,
    splits: Mapping[str, str | None],
    prompt: str,
    completion: str,
    long_prompts: str,
    tokens: str,
    vocab_size: int,
    end_of_text: str | None,
    pretrained: str | None,
    context: int,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    store: str,
    words: Mapping[str, Sequence[str]] | None = None,
    pack: bool = True,
    **settings: Any,
) -> DataModule:
    """Prompts with completions, of which the completions alone are learnt.

    Args: those of `windows`, and

        prompt: a template of columns, "{instruction} ".
        completion: a template of columns, "{response}".
        long_prompts: of more than `context` tokens: "refuse" them, or "leave_out" their pairs.
        words: column -> the words that its whole numbers stand for; those of a column in
            `completion` are its choices, among which label-word likelihood decides.
        pack: whether a window holds as many pairs as fit; else it holds one.

    Raises:
        ValueError: a setting is out of its range, or a choice is no single token.
    """
    words = {column: [*each] for column, each in (words or {}).items()}
    if any(
        len({*each}) < 2 or not all(isinstance(w, str) for w in each) for each in words.values()
    ):
        raise ValueError(
            f"dataset.words must be {{COLUMN: [WORD, WORD]}}, each word once, got {words}; "
            "try 'dataset.words={label: [bad, good]}'"
        )
    if not isinstance(pack, bool):
        raise ValueError(f"dataset.pack must be true or false, got {pack!r}; try dataset.pack=true")
    if long_prompts not in LONG_PROMPTS:
        raise ValueError(
            f"dataset.long_prompts must be {' or '.join(LONG_PROMPTS)}, got {long_prompts!r}; "
            "try dataset.long_prompts=leave_out"
        )
    source = Source(root, path, config_name, dict(splits))
    cuts = Cuts(val_fraction, test_fraction, split_seed)
    vocabulary = Vocabulary(tokens, vocab_size, end_of_text, pretrained)
    read = partial(read_instructions, source, prompt, completion, words, cuts)
    how: list[Any] = [prompt, completion, long_prompts, repr(cuts)]
    how += [words] if words else []
    how += [] if pack else ["a pair a window"]
    module = _module(
        source, read, how, vocabulary, context, long_prompts, Path(store), settings, pack
    )
    module.choices = _choices(module.tokenizer, completion, words)
    return module


def _choices(
    tokenizer: Tokenizer | None, completion: str, words: Mapping[str, Sequence[str]]
) -> tuple[int, ...]:
    """The first tokens of the completions among which a label's words choose; none without words.

    Raises:
        ValueError: a word is not one token.
    """
    used = [column for column in words if f"{{{column}}}" in completion]
    if len(used) != 1 or tokenizer is None:
        return ()
    texts = [completion.format_map({used[0]: word}) for word in words[used[0]]]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    long = [repr(text) for text, own in zip(texts, ids, strict=True) if len(own) != 1]
    if long:
        raise ValueError(
            f"dataset.words: {', '.join(long)} are no single tokens, and label words are compared "
            "by one; choose shorter or more frequent words, or a larger dataset.vocab_size"
        )
    return tuple(own[0] for own in ids)


def _module(
    source: Source,
    read: partial[dict[str, list[Document]]],
    how: list[Any],
    vocabulary: Vocabulary,
    context: int,
    long_prompts: str,
    store: Path,
    settings: Mapping[str, Any],
    pack: bool = True,
) -> DataModule:
    if settings.get("augment") is not None:
        raise ValueError(
            "dataset.augment is for images, this data set is text: type none of its settings"
        )
    if not is_whole(context, 1):
        raise ValueError(
            f"dataset.context must be a whole number >= 1, got {context}; try dataset.context=256"
        )

    def load() -> Splits:
        key = content_key([VERSION, fingerprint(source), vocabulary.content, context, how])

        def build(folder: Path) -> None:
            documents = read(folder / "cache")
            write_windows(documents, vocabulary, context, long_prompts, str(source), folder, pack)

        return _read(build_once(store / key, build, f"packing {source}"))

    return DataModule(
        source=load,
        val_fraction=0.1,  # all three splits are there
        test_fraction=0.1,
        split_seed=0,
        **settings,
    )


def _read(folder: Path) -> Splits:
    meta = read_meta(folder)
    splits = {}
    for name, known in meta["splits"].items():
        arrays = {
            part: torch.from_numpy(open_array(folder / f"{name}-{part}.npy"))
            for part in known
            if part != "num"
        }
        if any(len(array) != known["num"] for array in arrays.values()):
            raise ValueError(f"{folder} is damaged; delete it and run again: it is made anew")
        inputs = {"input_ids": arrays["inputs"]}
        if "positions" in arrays:
            inputs["position_ids"] = arrays["positions"]
        splits[name] = Split(inputs, arrays["labels"], num_bytes=arrays["bytes"])
    return Splits(
        splits["train"],
        splits["validation"],
        splits["test"],
        content=content_of(meta["splits"]),
        tokenizer=Tokenizer.from_file(str(folder / TOKENIZER_NAME)),
    )
