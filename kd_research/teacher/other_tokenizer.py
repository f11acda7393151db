"""A teacher that reads the student's text in tokens of its own.

Shapes: B rows, T positions of the student's tokens, D documents in them, L of the teacher's tokens,
U of its vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from kd_research.data.module import DataModule
from kd_research.data.token_bytes import read_again, token_bytes
from kd_research.evaluation.positions import evaluate_positions
from kd_research.generation.decode import context_of
from kd_research.teacher.stated import objective_of, own_dataset
from kd_research.teacher.train import Teacher

log = logging.getLogger(__name__)


class ReadsText(nn.Module):
    """Called with the student's token ids, it gives the teacher's logits at the same bytes.

    Each document's text is written out and cut anew by the teacher's tokenizer. The logits of a
    position are those of the teacher after the token that ends on the same byte; where none does,
    or none within the teacher's context, they are all -inf: the teacher says nothing there.

    Args:
        model: the teacher, token ids (D, L) -> logits (D, L, U).
        data: what it learned from, with its tokenizer.
        table: the bytes of each of the student's tokens.
    """

    def __init__(self, model: nn.Module, data: DataModule, table: list[bytes]):
        super().__init__()
        assert data.tokenizer is not None
        self.model = model
        self.data, self.tokenizer = (data,), data.tokenizer  # a module would be taken for a part
        self.table = table

    @property
    def own_data(self) -> DataModule:
        """What the teacher learned from."""
        return self.data[0]

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """(B, T) -> logits (B, T, U).

        Args:
            input_ids: (B, T), the student's.
            position_ids: (B, T), 0 where a document starts; None is one document a row.
        """
        documents: list[list[int]] = []
        rows, columns, theirs, places = [], [], [], []
        most = context_of(self.model)
        for row, (start, pieces) in self._documents(input_ids, position_ids):
            ids, meets = read_again(pieces, self.tokenizer)
            for column, place in enumerate(meets.tolist(), start=start):
                if place >= 0 and (most is None or place < most):
                    rows.append(row)
                    columns.append(column)
                    theirs.append(len(documents))
                    places.append(place)
            documents.append(ids[:most])
        device = input_ids.device
        longest = max(1, *map(len, documents), 1)
        tokens = torch.zeros(len(documents), longest, dtype=torch.int64)
        for place, ids in enumerate(documents):
            tokens[place, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        found = self.model(input_ids=tokens.to(device))
        logits: Tensor = found if isinstance(found, Tensor) else found["logits"]
        made = logits.new_full((*input_ids.shape, logits.shape[2]), -torch.inf)
        made[rows, columns] = logits[theirs, places]
        return made

    def _documents(
        self, input_ids: Tensor, position_ids: Tensor | None
    ) -> list[tuple[int, tuple[int, list[bytes]]]]:
        """Of each document its row, its start, and the bytes of its tokens before the last one."""
        found = []
        for row, ids in enumerate(input_ids.tolist()):
            starts = {0}
            if position_ids is not None:
                starts |= set((position_ids[row] == 0).nonzero()[:, 0].tolist())
            bounds = [*sorted(starts), len(ids)]
            for start, end in zip(bounds[:-1], bounds[1:], strict=True):
                pieces = [self.table[each] for each in ids[start:end]]
                ended = next((at for at, piece in enumerate(pieces) if not piece), len(pieces))
                found.append((row, (start, pieces[:ended])))
        return found


def other_tokenizer(config: Mapping[str, Any], data: DataModule, teacher: Teacher) -> Teacher:
    """The teacher; one whose `teacher.dataset` has another tokenizer reads text.

    Args:
        config: the whole resolved configuration.
        data: the student's.
        teacher: obtained.

    Raises:
        ValueError: a tokenizer does not say which bytes its tokens are.
    """
    tokenizer = data.tokenizer
    if not config["teacher"].get("dataset") or tokenizer is None:
        return teacher
    own: DataModule = instantiate(own_dataset(config), seed=config["seed"])
    if own.tokenizer is None or own.tokenizer.to_str() == tokenizer.to_str():
        return teacher
    table = token_bytes(tokenizer)
    table += [b""] * (data.num_classes - len(table))
    module = ReadsText(teacher.module, own, table).eval()
    log.warning(
        "the teacher has another tokenizer (%d tokens, the student %d): it reads the text in its "
        "own, and runs live",
        own.num_classes,
        data.num_classes,
    )
    return replace(teacher, module=module)


def refuse_other_tokenizer(loss: Mapping[str, Any], teacher: nn.Module) -> None:
    """Let a teacher pass that can do what a loss asks for.

    Raises:
        ValueError: it has another tokenizer, and the loss compares tokens or has it write.
    """
    if not isinstance(teacher, ReadsText):
        return
    objective = objective_of(loss)
    if not objective.any_vocabulary:
        raise ValueError(
            f"the teacher has a tokenizer of its own (teacher.dataset, "
            f"{teacher.own_data.num_classes} tokens), and {', '.join(objective.terms)} compares "
            "token with token; type loss=uld, or teacher.dataset={}"
        )
    text = loss.get("text") or {}
    if text and (text.get("beside") or not text["_target_"].endswith("StudentText")):
        raise ValueError(
            "loss.text has the teacher write in the student's tokens, but it has a tokenizer of "
            "its own (teacher.dataset); type loss=uld +text@loss.text=student, or "
            "teacher.dataset={}"
        )


def own_metrics(teacher: ReadsText, read_test: bool) -> dict[str, float | None]:
    """What the teacher is worth on its own tokens: of its metrics, bits per byte compares.

    Args:
        teacher: on the device where it is to work.
        read_test: whether the test split is read.
    """
    found = evaluate_positions(teacher.model, None, teacher.own_data, read_test).metrics
    kinds = ("accuracy", "nll", "perplexity", "bits_per_byte")
    names = [f"{split}_{kind}" for split in ("val", "test") for kind in kinds]
    return {f"teacher_{name}": found[name] for name in names if name in found}
