"""Batches of text in place of batches of data: prompts, labels, processes, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_research.data.module import DataModule
from kd_research.data.prompts import joined, prompts_of
from kd_research.data.sources import Split, Splits
from kd_research.generation.beside import TeacherReplaces
from kd_research.generation.decode import Generated, generate
from kd_research.generation.settings import GenerationConfig
from kd_research.interfaces import Batch
from kd_research.losses.divergences import ReverseKL
from kd_research.losses.objective import Objective
from kd_research.losses.positions import IGNORED
from kd_research.models.capture import Capture
from kd_research.models.gpt import GPT
from kd_research.training.distill import Distiller
from kd_research.training.fit import make_trainer
from kd_research.training.on_policy import StudentText
from kd_research.training.replay import Replay

VOCAB, WINDOW, STOP = 7, 12, 5


def net(width: int = 8, dropout: float = 0.5) -> GPT:
    torch.manual_seed(width)
    return GPT(VOCAB, WINDOW, depth=1, width=width, heads=2, dropout=dropout)


def windows(lengths: list[int], places: Tensor | None = None) -> Batch:
    """Windows with prompts of these lengths; the token at a place is the place modulo 5."""
    text = torch.arange(WINDOW + 1).remainder(5).repeat(len(lengths), 1)
    labels = text[:, 1:].clone()
    for row, length in enumerate(lengths):
        labels[row, : length - 1] = IGNORED
    inputs = {"input_ids": text[:, :-1].clone()}
    if places is not None:
        inputs["position_ids"] = places
    return Batch(inputs, labels, torch.arange(len(lengths)) + 40)


def part(batch: Batch, rows: slice) -> Batch:
    assert isinstance(batch.inputs, dict)
    inputs = {name: value[rows] for name, value in batch.inputs.items()}
    return Batch(inputs, batch.labels[rows], batch.index[rows])


def bound(text: StudentText, batch_size: int = 4, stop: int | None = STOP) -> StudentText:
    text.bind(0, WINDOW, stop, batch_size)
    return text


def test_a_prompt_is_what_stands_before_the_first_label() -> None:
    batch = windows([3, 5, 9, 1])
    prompts, mask = prompts_of(batch, 6, 0, 0, torch.arange(4))
    assert mask.tolist() == [[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1] * 6, [1] * 6]
    assert prompts[0].tolist() == [0, 0, 0, 0, 1, 2]
    assert prompts[2].tolist() == [3, 4, 0, 1, 2, 3]  # of 9 tokens the last 6
    assert prompts[3].tolist() == [0, 1, 2, 3, 4, 0]  # plain text: the first 6


def test_of_packed_documents_one_is_drawn_by_the_row() -> None:
    places = torch.cat([torch.arange(5), torch.arange(4), torch.arange(3)]).repeat(40, 1)
    batch = windows([3] * 40, places)
    assert isinstance(batch.inputs, dict)
    batch.inputs["input_ids"][:, 5:] += 10
    batch.labels[:, 5] = IGNORED  # the second document has a prompt of two tokens
    batch.labels[:, 9:] = IGNORED  # the third only fills the window up
    prompts, mask = prompts_of(batch, 6, 0, 0, torch.arange(40))
    found = {tuple(row[kept.bool()].tolist()) for row, kept in zip(prompts, mask, strict=True)}
    assert found == {(0, 1, 2), (10, 11)}
    first = prompts_of(part(batch, slice(3, 4)), 6, 0, 0, torch.tensor([3]))[0]
    assert first.tolist() == [prompts[3][mask[3].bool()].tolist()]


def test_labels_are_what_was_written_up_to_one_end() -> None:
    """The token that ends a text is also what fills up: one of them is learnt, and no more."""
    prompts = torch.tensor([[0, 1, STOP], [1, 2, 3]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    tokens = torch.tensor([[4, STOP, STOP, STOP], [4, 4, 2, 1]])
    made = Generated(tokens, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool(), 0)
    batch = joined(windows([1, 1]), prompts, mask, made, STOP)
    assert batch.drawn
    assert batch.index.tolist() == [40, 41]
    assert isinstance(batch.inputs, dict)
    x = IGNORED
    assert batch.inputs["input_ids"].tolist() == [[1, 5, 4, 5, 5, 5], [1, 2, 3, 4, 4, 2]]
    assert batch.labels.tolist() == [[x, 4, 5, x, x, x], [x, x, 4, 4, 2, 1]]


@pytest.mark.parametrize("beside", [False, True])
def test_processes_write_the_rows_that_one_would(beside: bool) -> None:
    batch, student, teacher = windows([3, 5, 2, 6]), net(), net(16)
    student.train()
    mix = TeacherReplaces(2) if beside else None
    (whole,) = bound(StudentText(1.0, beside=mix))(student, teacher, [batch], step=3)
    assert student.training
    assert all(module.training for module in student.modules())
    (later,) = bound(StudentText(1.0, beside=mix))(student, teacher, [batch], step=4)
    assert not torch.equal(whole.labels, later.labels)
    for rank in (0, 1):
        own = bound(StudentText(1.0, beside=mix))
        (found,) = own(student, teacher, [part(batch, slice(rank, None, 2))], 3, rank, 2)
        expected = whole.labels[rank::2]
        width = min(found.labels.shape[1], expected.shape[1])
        assert torch.equal(found.labels[:, :width], expected[:, :width])
        assert bool((expected[:, width:] == IGNORED).all())
        assert own.counts["tokens"] == int((expected != IGNORED).sum())


def test_the_text_is_the_student_s_own_after_its_prompts() -> None:
    batch, student = windows([3, 5]), net()
    (made,) = bound(StudentText(1.0, 6, 4), stop=None)(student, net(16), [batch], step=0)
    alone = generate(
        student, torch.tensor([[0, 1, 2]]), GenerationConfig(4), seed=0, rows=torch.tensor([0])
    )
    assert made.labels[0].tolist()[2:6] == alone.tokens[0].tolist()


def test_which_batches_are_text_depends_on_seed_and_step() -> None:
    text, batch = bound(StudentText(0.3, 2, 1)), windows([3])
    student = net()
    drawn = [text(student, student, [batch], step)[0].drawn for step in range(100)]
    assert 0.2 < sum(drawn) / 100 < 0.4
    assert text.costs()["on_policy_share"] == sum(drawn) / 100
    again = bound(StudentText(0.3, 2, 1))
    assert [again(student, student, [batch], step)[0].drawn for step in (7, 3, 99)] == [
        drawn[step] for step in (7, 3, 99)
    ]


def test_labels_that_a_model_drew_are_nothing_to_learn() -> None:
    objective = Objective({"rkl": {"loss": ReverseKL(1.0), "weight": 0.5}}, 0.5)
    batch, student, teacher = windows([3, 4]), net().eval(), net(16).eval()
    ours, theirs = Capture(student)(batch.inputs), Capture(teacher)(batch.inputs)
    total, parts = objective(ours, theirs, batch._replace(drawn=True))
    assert set(parts) == {"rkl"}
    assert total.item() == pytest.approx(0.5 * parts["rkl"].item())
    assert set(objective(ours, theirs, batch)[1]) == {"ce", "rkl"}


def test_replayed_text_is_the_row_s_own_and_survives_a_cut() -> None:
    replay = Replay(capacity=4, growth=0.1, tolerance=0.1)
    replay.bind(2)
    assert replay.each == 2
    rows = torch.arange(2)
    for step in range(3):
        assert replay.is_full == (step == 2)
        replay.put(windows([3 + step, 6]), rows)
    taken = [replay.take(windows([1, 1]), rows, 0, step) for step in range(20)]
    counts = {int((batch.labels[0] != IGNORED).sum()) for batch in taken}
    assert counts == {WINDOW - 3, WINDOW - 4}  # the first of the three is gone
    assert {int((batch.labels[1] != IGNORED).sum()) for batch in taken} == {WINDOW - 5}
    other = Replay(capacity=4, growth=0.1, tolerance=0.1)
    other.bind(2)
    other.load_state_dict(replay.state_dict())
    for step, batch in enumerate(taken):
        assert torch.equal(other.take(windows([1, 1]), rows, 0, step).labels, batch.labels)
    alone = other.take(part(windows([1, 1]), slice(1, 2)), torch.tensor([1]), 0, 5)
    assert torch.equal(alone.labels[0], taken[5].labels[1][: alone.labels.shape[1]])


def test_the_share_grows_where_validation_gets_worse() -> None:
    replay = Replay(capacity=4, growth=0.1, tolerance=0.1)
    shares = []
    for loss in (2.0, 1.0, 2.05, 2.2, 2.25, 2.4, 9.0):
        replay.validated(loss, 0.75)
        shares.append(round(replay.share_of(0.75), 6))
    assert shares == [0.75, 0.75, 0.75, 0.85, 0.85, 0.95, 1.0]


def test_new_text_is_drawn_less_and_less_once_the_memory_is_full() -> None:
    text = bound(StudentText(1.0, 2, 1, replay=Replay(1, 0.1, 0.1)), batch_size=1)
    text.start(160)
    student, seen = net(), []
    for step in range(160):
        before = text.counts["tokens"]
        assert text(student, student, [windows([3])], step)[0].drawn
        seen.append(text.counts["tokens"] > before)
    assert sum(seen[:40]) > 28
    assert sum(seen[120:]) < 12


def test_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="share must be") as error:
        StudentText(1.5, prompt_tokens=0, generation={"temperature": -1}, data_weight=-1)
    for part_of_it in ("prompt_tokens must be", "temperature must be", "data_weight must be"):
        assert part_of_it in str(error.value)
    with pytest.raises(ValueError, match="replay needs capacity >= 1"):
        Replay(0, 0.1, 0.1)


def fitted(folder: Path, text: StudentText, batch_size: int, **options: Any) -> list[Tensor]:
    """The weights after a fit of two epochs on six windows, at rate 1."""
    split = Split(*windows([3, 5, 2, 6, 9, 4])[:2])
    data = DataModule("six", lambda: Splits(split, split, split), VOCAB, batch_size, 0.1, 0.1, 0, 0)
    objective = Objective({"rkl": {"loss": ReverseKL(1.0), "weight": 1.0}}, 0.0)
    student, teacher = (
        net(width, dropout=0.0).double().requires_grad_(width == 8) for width in (8, 16)
    )
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(3)  # so that there is something to learn
    module = Distiller(student, objective, lambda p: torch.optim.SGD(p, lr=1.0), teacher=teacher)
    module.text = text
    text.bind(0, WINDOW, STOP, batch_size, options.get("accumulate_grad_batches", 1))
    fixed = {"max_epochs": 2, "accelerator": "cpu", "precision": "64-true", "limit_val_batches": 0}
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False}
    trainer = make_trainer({**fixed, **quiet, **options}, folder)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 4
    return [parameter.detach() for parameter in student.parameters()]


@pytest.mark.parametrize(
    "how",
    [
        {"share": 1.0},
        {"share": 0.5, "data_weight": 1.0},
        {"share": 1.0, "beside": TeacherReplaces(2), "replay": (4, 0.1, 0.1)},
    ],
)
def test_accumulated_batches_are_one_batch(how: dict[str, Any], tmp_path: Path) -> None:
    """A step of two batches of two, or of one at the epoch's end, is that of one batch of four."""
    found, made = [], []
    for batch_size, accumulated in ((4, 1), (2, 2)):
        replay = {"replay": Replay(*how["replay"])} if "replay" in how else {}
        text = StudentText(**{**how, **replay})
        found.append(fitted(tmp_path, text, batch_size, accumulate_grad_batches=accumulated))
        made.append(text.counts["tokens"])
    assert made[0] == made[1] > 6
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12)
