"""Documents for language models: rows of a text column, or prompts with their completions.

Documents are cut into train, validation and test here, before anything is packed. Imports no torch.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd_research.data.checks import is_number, is_whole
from kd_research.data.hub import Source, open_splits


class Document(NamedTuple):
    """A prompt, which is not learnt, and what follows it, which is; plain text has no prompt."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Cuts:
    """What is cut off the training documents where no such split is published.

    Attributes:
        val_fraction: of the documents left; of the characters, where there is one document alone.
        test_fraction: of all documents.
        seed: of the choice.
    """

    val_fraction: float
    test_fraction: float
    seed: int

    def __post_init__(self) -> None:
        problems = [
            f"dataset.{name} must be above 0 and below 1, got {value}; try dataset.{name}=0.1"
            for name, value in (
                ("val_fraction", self.val_fraction),
                ("test_fraction", self.test_fraction),
            )
            if not is_number(value) or not 0 < value < 1
        ]
        if not is_whole(self.seed) or self.seed >= 1 << 32:
            problems.append(
                f"dataset.split_seed must be a whole number from 0 to 2^32 - 1, got {self.seed}; "
                "try dataset.split_seed=0"
            )
        if problems:
            raise ValueError("\n".join(problems))


def read_texts(source: Source, rows: str, cuts: Cuts, cache: Path) -> dict[str, list[Document]]:
    """Split -> documents, of one text column.

    Args:
        source: where they are; `input_column` None is the only text column, or "text".
        rows: "documents", each row one, or "lines" of one text.
        cuts: for the splits that are not published.
        cache: for what `datasets` makes of the files.

    Raises:
        ValueError: no such column, or a row without text.
    """
    splits = open_splits(source, cache)
    column = _text_column(source, splits["train"].features)
    found = {}
    for split, table in splits.items():
        texts = table.with_format(None)[column][:]
        if rows == "lines":
            lines = ["" if line is None else line for line in texts]
            texts = ["".join(line if line.endswith("\n") else f"{line}\n" for line in lines)]
        hint = "remove them, or type dataset.rows=lines where rows are the lines of one text"
        _refuse_empty(f"{source}: column {column!r}", split, texts, hint)
        found[split] = [Document("", text) for text in texts]
    return _cut(found, cuts)


def read_instructions(
    source: Source,
    prompt: str,
    completion: str,
    words: Mapping[str, Sequence[str]],
    cuts: Cuts,
    cache: Path,
) -> dict[str, list[Document]]:
    """Split -> prompts and completions.

    Args:
        source: where they are.
        prompt: a template of columns, such as "{instruction} "; a missing value is empty.
        completion: a template.
        words: column -> the words that its whole numbers stand for.
        cuts: for the splits that are not published.
        cache: for what `datasets` makes of the files.

    Raises:
        ValueError: a template names no column or an unknown one, a number has no word, or a
            completion is empty.
    """
    splits = open_splits(source, cache)
    columns = list(splits["train"].features)
    if unknown := sorted(words.keys() - set(columns)):
        raise ValueError(
            f"{source}: dataset.words names {', '.join(unknown)}; there are {', '.join(columns)}"
        )
    for name, template in (("prompt", prompt), ("completion", completion)):
        _check_template(source, name, template, columns)
    found = {}
    for split, table in splits.items():
        rows = [
            {name: _said(source, name, value, words.get(name)) for name, value in row.items()}
            for row in table.with_format(None)
        ]
        completions = [completion.format_map(row) for row in rows]
        _refuse_empty(
            f"{source}: dataset.completion={completion!r}", split, completions, "remove these rows"
        )
        prompts = [prompt.format_map(row) for row in rows]
        found[split] = [Document(*pair) for pair in zip(prompts, completions, strict=True)]
    return _cut(found, cuts)


def _said(source: Source, column: str, value: Any, words: Sequence[str] | None) -> Any:
    """A value as a template has it: nothing where it is missing, a word where there are words."""
    if value is None or words is None:
        return "" if value is None else value
    if not is_whole(value) or value >= len(words):
        raise ValueError(
            f"{source}: dataset.words.{column} has {len(words)} words, for 0 to {len(words) - 1}, "
            f"and there is {value!r}; give every number its word"
        )
    return words[value]


def _check_template(source: Source, name: str, template: str, columns: Sequence[str]) -> None:
    try:
        used = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(
            f"dataset.{name}={template!r} is no template ({error}); type {{COLUMN}} for a column"
        ) from error
    unknown = sorted({field.split(".")[0].split("[")[0] for field in used} - set(columns))
    if unknown or not used:
        problem = f"names {', '.join(unknown)}" if unknown else "names no column"
        raise ValueError(
            f"{source}: dataset.{name}={template!r} {problem}; there are {', '.join(columns)}; "
            f"type 'dataset.{name}=\"{{{columns[0]}}}\"'"
        )


def _text_column(source: Source, features: Mapping[str, Any]) -> str:
    texts = [
        name
        for name, kind in features.items()
        if getattr(kind, "dtype", None) in ("string", "large_string")
    ]
    if source.input_column is not None and source.input_column in texts:
        return source.input_column
    candidates = [name for name in texts if name == "text"] or texts
    if source.input_column is None and len(candidates) == 1:
        return candidates[0]
    problem = (
        f"no text column {source.input_column!r}"
        if source.input_column is not None
        else f"{len(texts)} columns could be the text"
    )
    raise ValueError(
        f"{source}: {problem}; there are {', '.join(features)}; type dataset.input_column=NAME"
    )


def _refuse_empty(what: str, split: str, texts: Sequence[str | None], hint: str) -> None:
    empty = [at for at, text in enumerate(texts) if not text]
    if empty:
        raise ValueError(
            f"{what}: {len(empty)} of the {len(texts)} documents of the split {split!r} are empty, "
            f"the first is row {empty[0]}; {hint}"
        )


def _cut(found: dict[str, list[Document]], cuts: Cuts) -> dict[str, list[Document]]:
    """All three splits; what is missing comes off the training documents."""
    rest = found["train"]
    for split, fraction in (("test", cuts.test_fraction), ("validation", cuts.val_fraction)):
        if split not in found:
            rest, found[split] = _take(rest, fraction, cuts.seed)
    found["train"] = rest
    return {split: found[split] for split in ("train", "validation", "test")}


def _take(
    documents: list[Document], fraction: float, seed: int
) -> tuple[list[Document], list[Document]]:
    """The documents without, and only, a share of them; of a single one its end."""
    if len(documents) == 1:
        prompt, text = documents[0]
        at = len(text) - math.ceil(fraction * len(text))
        return [Document(prompt, text[:at])], [Document("", text[at:])]
    order = np.random.default_rng(seed).permutation(len(documents))
    taken = set(order[: max(1, math.ceil(fraction * len(documents)))].tolist())
    return (
        [document for at, document in enumerate(documents) if at not in taken],
        [document for at, document in enumerate(documents) if at in taken],
    )
