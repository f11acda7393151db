"""The teacher's text for the prompts of the training split, written once and cached as Parquet.

A row is a prompt and what the teacher wrote after it: `window` (its place in the split), `prompt`
and `tokens` (token ids), and `text` (the tokens as text, to be looked at). The file's name is made
of what decides its content; a digest in its metadata says whether it still is what was written.

Shapes: M prompts, T positions of a window.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from kd_research.configuration.text_checks import lengths
from kd_research.data.module import DataModule
from kd_research.data.prompts import in_window
from kd_research.data.sources import Split
from kd_research.data.store import content_key
from kd_research.generation.decode import generate, pad_left
from kd_research.generation.settings import GenerationConfig
from kd_research.interfaces import Batch, Count
from kd_research.losses.positions import IGNORED
from kd_research.records.locks import alone

if TYPE_CHECKING:  # a fifth of a second, which only this method needs
    import pyarrow as pa

log = logging.getLogger(__name__)

AT_ONCE = 64  # prompts that are written after together; changes no text
VERSION = 1  # raise it when a change of code changes the text
META = b"kd_research"


class TeacherText:
    """Sequence-level distillation: the student is trained on the teacher's text.

    Kim and Rush 2016, arXiv:1606.07947, section 3.2. They train on the most probable text, found by
    beam search. Here the text is drawn, which estimates their objective, the cross-entropy with
    the teacher's distribution over texts, without bias; temperature 0 is greedy.

    Args:
        prompt_tokens: as `StudentText`'s.
        max_new_tokens: the same.
        generation: temperature, top_k and top_p by which the teacher draws.
        seed: of the drawing; apart from the run's, so that runs of all seeds share the text.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        prompt_tokens: Count | None,
        max_new_tokens: Count | None,
        generation: Mapping[str, Any],
        seed: int,
    ):
        for name, value in (("prompt_tokens", prompt_tokens), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1 or null, got {value}; try null")
        self.prompt_tokens, self.max_new_tokens = prompt_tokens, max_new_tokens
        self.config, self.seed = GenerationConfig(**generation), seed
        self._meta: dict[str, Any] = {}

    def instead(
        self, data: DataModule, teacher: nn.Module, teacher_key: Any, stop: int | None, root: Path
    ) -> DataModule:
        """The data with the teacher's text in place of the training split.

        Validation and test stay the data's own.

        Args:
            data: of text.
            teacher: frozen, on the device where it is to write.
            teacher_key: its `key`.
            stop: the token that ends a text; None: none does.
            root: of the cached files.

        Raises:
            ValueError: prompt and text are longer than a window.
        """
        context = data.train.labels.shape[1]
        most, new = lengths(self.prompt_tokens, self.max_new_tokens, context)
        config = GenerationConfig(**{**vars(self.config), "max_new_tokens": new, "stop": stop})
        content = [VERSION, teacher_key, data.fingerprint(), most, vars(config), self.seed]
        path = root / f"{data.name}-{content_key(content)}.parquet"
        root.mkdir(parents=True, exist_ok=True)
        with alone(path.with_suffix(".lock"), "writing the teacher's text"):
            table = _read(path)
            if table is None:
                log.warning("the teacher writes its text, once: %s", path)
                table = self._written(data, teacher, most, config)
                from pyarrow import parquet

                temporary = path.with_suffix(".new")  # what a killed process left is written over
                parquet.write_table(table, temporary)
                temporary.replace(path)
        self._meta = json.loads(table.schema.metadata[META])
        return data.with_train(_split(table, context, 0 if stop is None else stop), content)

    def _written(
        self, data: DataModule, teacher: nn.Module, most: int, config: GenerationConfig
    ) -> pa.Table:
        import pyarrow as pa

        started = time.perf_counter()
        prompts: list[list[int]] = []
        windows: list[int] = []
        for start in range(0, len(data.train), AT_ONCE):
            index = torch.arange(start, min(start + AT_ONCE, len(data.train)))
            examples = data.train.take(index)
            batch = Batch(examples.inputs, examples.labels, index)
            for row, window in enumerate(index.tolist()):
                found = in_window(batch, row, most)
                prompts += found
                windows += [window] * len(found)
        texts: list[list[int]] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            rows = torch.arange(start, start + len(some))
            tokens, mask = pad_left(some)
            made = generate(teacher, tokens, config, seed=self.seed, rows=rows, attention_mask=mask)
            texts += [
                row[there].tolist()
                for row, there in zip(made.tokens.cpu(), made.mask.cpu(), strict=True)
            ]
        decode = (lambda _: None) if data.tokenizer is None else data.tokenizer.decode
        columns = {
            "window": pa.array(windows, pa.int64()),
            "prompt": pa.array(prompts, pa.list_(pa.int32())),
            "tokens": pa.array(texts, pa.list_(pa.int32())),
            "text": pa.array([decode(text) for text in texts], pa.string()),
        }
        table = pa.table(columns)
        meta = {
            "digest": _digest(table),
            "seconds": time.perf_counter() - started,
            "tokens": sum(map(len, texts)),
        }
        return table.replace_schema_metadata({META: json.dumps(meta)})

    def costs(self) -> dict[str, float]:
        """What the text cost whoever wrote it: for the record."""
        return {
            "generation_seconds": self._meta["seconds"],
            "generated_tokens": self._meta["tokens"],
            "on_policy_share": 0.0,
        }


def _read(path: Path) -> pa.Table | None:
    """The file's table; None where there is none, or not what was written."""
    if not path.exists():
        return None
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        meta = json.loads(table.schema.metadata[META])
        if meta["digest"] != _digest(table) or not {"seconds", "tokens"} <= meta.keys():
            raise ValueError("its content is not what was written")
    except Exception as error:  # pyarrow raises many types
        log.warning("%s is damaged (%s): the teacher writes it anew", path, error)
        return None
    return table


def _digest(table: pa.Table) -> str:
    digest = hashlib.sha256(np.asarray(table["window"]).tobytes())
    for name in ("prompt", "tokens"):
        column = table[name].combine_chunks()
        for part in (column.value_lengths(), column.flatten()):
            digest.update(np.asarray(part).astype(np.int64).tobytes())
    digest.update(json.dumps(table["text"].to_pylist()).encode())
    return digest.hexdigest()


def _split(table: pa.Table, context: int, pad: int) -> Split:
    """Windows of a prompt and its text each, whose labels are the text alone."""
    inputs = torch.full((len(table), context), pad, dtype=torch.int32)
    labels = torch.full((len(table), context), IGNORED, dtype=torch.int32)
    pairs = zip(table["prompt"].to_pylist(), table["tokens"].to_pylist(), strict=True)
    for row, (prompt, text) in enumerate(pairs):
        ids = torch.tensor(prompt + text, dtype=torch.int32)
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
    return Split({"input_ids": inputs}, labels)
