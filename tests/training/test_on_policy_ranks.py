"""On-policy text in two processes of a CPU: each draws the rows that are its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from positions_data import CONTEXT, VOCABULARY, with_positions
from tiny import Compose, plain
from torch import multiprocessing

from kd_research.training.distill import Distiller
from kd_research.training.on_policy import StudentText
from kd_research.trial.run import run


def watched(config: Any, folder: Path, rank: int) -> Any:
    """The record of a run; beside it the texts that this process drew, and its weights."""
    texts: list[tuple[torch.Tensor, torch.Tensor]] = []
    last: list[dict[str, torch.Tensor]] = []
    drawing, ending = StudentText.in_place_of, Distiller.on_validation_epoch_end

    def draw(self: StudentText, *arguments: Any) -> Any:
        made = drawing(self, *arguments)
        assert made.drawn
        texts.append((made.inputs["input_ids"], made.labels))  # type: ignore[index]
        return made

    def end(self: Distiller) -> None:
        ending(self)
        last[:] = [{k: v.clone() for k, v in self.student.state_dict().items()}]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudentText, "in_place_of", draw)
        patch.setattr(Distiller, "on_validation_epoch_end", end)
        record = run(config, folder)
    assert record.status == "completed", record.error
    torch.save((texts, last[0]), folder / f"rank-{rank}.pt")
    return record


def work(rank: int, config: dict[str, Any], folder: Path, port: int) -> None:
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "GROUP_RANK": "0"},
        **{"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    watched(config, folder, rank)


def written(text: tuple[torch.Tensor, torch.Tensor], row: int) -> list[int]:
    """The tokens of a row up to its last label."""
    ids, labels = text[0][row], text[1][row]
    last = int((labels >= 0).nonzero()[-1])
    return [*ids[: last + 1].tolist(), int(labels[last])]


def test_two_processes_draw_what_one_does(tiny: Compose, tmp_path: Path) -> None:
    more = ("loss.on_policy=1", "trainer.accelerator=cpu", "optimizer=sgd", "optimizer.lr=0.1")
    config = with_positions(tiny, "loss=gkd", *more, num_windows=32)
    config.output_dir = str(tmp_path / "out")
    shape = {"vocab_size": VOCABULARY, "context": CONTEXT, "depth": 1, "heads": 2, "dropout": 0}
    for who, width in (("teacher", 16), ("student", 8)):
        config[who].model = {"_target_": "kd_research.models.gpt.GPT", **shape, "width": width}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = watched(config, tmp_path / "one", 0)
    config.trainer.devices, config.trainer.strategy = 2, "ddp"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (plain(config), tmp_path / "two", port)
    multiprocessing.start_processes(work, args=arguments, nprocs=2, start_method="fork")
    whole, expected = torch.load(tmp_path / "one" / "rank-0.pt")
    (first, weights), (second, others) = (
        torch.load(tmp_path / "two" / f"rank-{rank}.pt") for rank in (0, 1)
    )
    assert len(first) == len(second) == len(whole) == 4  # two epochs of two batches
    for key, value in weights.items():
        assert torch.equal(others[key], value)
        torch.testing.assert_close(expected[key], value, rtol=1e-4, atol=1e-6)
    for one, own, other in zip(whole, first, second, strict=True):
        rows = [written(one, row) for row in range(16)]
        assert [written(own, row) for row in range(8)] == rows[::2]
        assert [written(other, row) for row in range(8)] == rows[1::2]
        assert rows[::2] != rows[1::2]
    assert (alone.costs["generated_tokens"] or 0) > 4 * 16
