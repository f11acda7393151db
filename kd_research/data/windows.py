"""Documents packed into windows of equal length, as memory-mapped arrays, once per machine.

A packed set is a folder: `SPLIT-inputs.npy` (N, T) int32 token ids; `SPLIT-labels.npy` (N, T)
int32, of each position the token after it, -100 where none is learnt: across the border of two
documents, in prompts, and in what fills a window up; `SPLIT-bytes.npy` (N,) int64, how many bytes
of text the learnt labels are; `SPLIT-positions.npy` (N, T) int32, 0 where a document starts, where
several may lie in one window; `tokenizer.json` and `meta.json`. Imports no torch.

Shapes: N windows, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_research.data.documents import Document
from kd_research.data.store import META_NAME, array_digest, create_array
from kd_research.data.text import TOKENIZER_NAME
from kd_research.data.vocabulary import Vocabulary, encode, refuse_unknown
from kd_research.records.record import write_json

IGNORED = -100  # of a label that is not learnt; as in losses/positions.py, which imports torch
VERSION = 1  # of what is in a packed folder
_BATCH = 1000


class Steps(NamedTuple):
    """What is read and what comes next, position after position, of one or more documents.

    Attributes:
        inputs: (M,) token ids; the last of a document is none, since nothing comes after it.
        labels: (M,) the token after each, -100 where it is not learnt.
        added: (M,) the bytes of text that each label is; 0 where it is not learnt.
        positions: (M,) 0 where a document starts.
    """

    inputs: NDArray[np.int32]
    labels: NDArray[np.int32]
    added: NDArray[np.int32]
    positions: NDArray[np.int32]


def write_windows(
    documents: Mapping[str, Sequence[Document]],
    vocabulary: Vocabulary,
    context: int,
    long_prompts: str,
    source: str,
    folder: Path,
    pack: bool = True,
) -> None:
    """Fill the folder.

    Plain text runs on from window to window. A prompt stays with its completion: the window is
    filled up where the next pair does not fit, and a completion that is too long is cut.

    Args:
        documents: split -> documents.
        vocabulary: how they become ids.
        context: T.
        long_prompts: "refuse", or "leave_out" pairs whose prompt leaves no room in T.
        source: for messages and the record.
        folder: takes the files.
        pack: whether a window holds as many pairs as fit; else it holds one.

    Raises:
        ValueError: several documents and no end of text; a split shorter than a window; a
            character that the training part has not; a prompt that leaves no room.
    """
    most = max(map(len, documents.values()))
    if vocabulary.end_of_text is None and (most > 1 or documents["train"][0].prompt):
        raise ValueError(
            f"{source}: {most} documents are packed, and the tokenizer has no end of text; type "
            "dataset.end_of_text=TOKEN, such as '<|endoftext|>' (one id more)"
        )
    tokenizer = vocabulary.make([prompt + text for prompt, text in documents["train"]])
    last = vocabulary.end_of_text
    end = None if last is None else tokenizer.token_to_id(last)
    tokenizer.save(str(folder / TOKENIZER_NAME))
    meta: dict[str, Any] = {"kind": "windows", "class_names": None, "source": source, "splits": {}}
    problems = []
    for split, texts in documents.items():
        refuse_unknown(tokenizer, vocabulary.kind, split, (p + t for p, t in texts))
        steps, prompts = [], []
        for start in range(0, len(texts), _BATCH):
            part = texts[start : start + _BATCH]
            before = encode(tokenizer, [prompt for prompt, _ in part])
            after = encode(tokenizer, [text for _, text in part])
            steps += [_steps(*pair, end) for pair in zip(before, after, strict=True)]
            prompts += [len(ids) for ids, _ in before]
        if any(prompts):
            filled, problem = _whole_pairs(steps, prompts, context, long_prompts, split, pack)
        else:
            filled, problem = _run_on(steps, context, split)
        if problem:
            problems.append(f"{source}: {problem}")
        else:
            meta["splits"][split] = _write(filled, context, len(texts) > 1 and pack, folder, split)
    if problems:
        raise ValueError("\n".join(problems))
    write_json(folder / META_NAME, meta)


def _steps(
    prompt: tuple[NDArray[np.int32], NDArray[np.int32]],
    text: tuple[NDArray[np.int32], NDArray[np.int32]],
    end: int | None,
) -> Steps:
    """The steps of one document, which ends in the token `end`, if any."""
    last = np.array([] if end is None else [end], dtype=np.int32)
    ids = np.concatenate([prompt[0], text[0], last])
    added = np.concatenate([prompt[1], text[1], 0 * last])[1:]
    learnt = np.arange(1, len(ids)) >= len(prompt[0])
    return Steps(
        ids[:-1],
        np.where(learnt, ids[1:], IGNORED).astype(np.int32),
        np.where(learnt, added, 0).astype(np.int32),
        np.arange(len(ids) - 1, dtype=np.int32),
    )


def _together(parts: Sequence[Steps]) -> Steps:
    return Steps(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _filling(count: int) -> Steps:
    """Steps that fill a window up; the model sees them, nothing is learnt."""
    zeros = np.zeros(count, dtype=np.int32)
    return Steps(zeros, zeros + IGNORED, zeros, np.arange(count, dtype=np.int32))


def _run_on(documents: Sequence[Steps], context: int, split: str) -> tuple[Steps, str | None]:
    """One document after the other, the last window filled up."""
    steps = _together(documents)
    num = len(steps.inputs)
    if num < context:
        return steps, (
            f"the {split} part has {num + len(documents)} tokens, too few for one window of "
            f"{context} and the token after it; type dataset.context={max(1, num)} or less, or "
            "give more text"
        )
    at = np.arange(num)
    # a document that began in an earlier window starts anew with this one
    steps = steps._replace(positions=at - np.maximum(at - steps.positions, at // context * context))
    return _together([steps, _filling(-num % context)]), None


def _whole_pairs(
    pairs: Sequence[Steps],
    prompts: Sequence[int],
    context: int,
    long_prompts: str,
    split: str,
    pack: bool,
) -> tuple[Steps, str | None]:
    """Whole pairs, in their order, as many to a window as fit; one alone is cut to it."""
    long = sum(length > context for length in prompts)
    if long and (long_prompts == "refuse" or long == len(pairs)):
        return _filling(0), (
            f"{long} of {len(pairs)} prompts of the {split} part leave no room in "
            f"dataset.context={context}, the longest has {max(prompts)} tokens; type "
            f"dataset.context={max(prompts) + 1} or more, or dataset.long_prompts=leave_out"
        )
    parts: list[Steps] = []
    room = 0
    for pair, prompt in zip(pairs, prompts, strict=True):
        if prompt > context:
            continue
        cut = Steps(*(column[:context] for column in pair))
        if len(cut.inputs) > room or not pack:
            parts.append(_filling(room))
            room = context
        parts.append(cut)
        room -= len(cut.inputs)
    return _together([*parts, _filling(room)]), None


def _write(steps: Steps, context: int, packed: bool, folder: Path, split: str) -> dict[str, Any]:
    """The arrays of one split; windows in which nothing is learnt are left out."""
    inputs, labels, added, positions = (column.reshape(-1, context) for column in steps)
    kept = (labels != IGNORED).any(axis=1)
    arrays = {"inputs": inputs[kept], "labels": labels[kept]}
    arrays["bytes"] = added[kept].sum(axis=1, dtype=np.int64)
    if packed:
        arrays["positions"] = positions[kept].astype(np.int32)
    for name, values in arrays.items():
        file = create_array(folder / f"{split}-{name}.npy", values.shape, str(values.dtype))
        file[:] = values
    return {"num": int(kept.sum()), **{name: array_digest(each) for name, each in arrays.items()}}
