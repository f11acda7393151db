"""FSDP on two processes of a CPU: the fit of one process, from nets that no process holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from positions_data import CONTEXT, VOCABULARY, with_positions
from tiny import Compose, plain
from torch import multiprocessing

from kd_research.trial.run import run

GPT = {
    **{"_target_": "kd_research.models.gpt.GPT", "vocab_size": VOCABULARY, "context": CONTEXT},
    **{"depth": 2, "width": 16, "heads": 2},
}


def work(rank: int, config: dict, folder: Path) -> None:  # type: ignore[type-arg]
    import os

    from kd_research.training.sharded import Sharded  # a second, that no other worker need take

    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "GROUP_RANK": "0"},
        **{"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": config.pop("port")},
    }
    shares: list[float] = []
    whole = Sharded.validation_step

    def watch(self, *arguments, **options):  # type: ignore[no-untyped-def]
        for net in self._nets:
            held = sum(p.to_local().numel() for p in net.parameters())
            shares.append(held / sum(p.numel() for p in net.parameters()))
        return whole(self, *arguments, **options)

    Sharded.validation_step = watch  # type: ignore[method-assign]
    record = run(config, folder)
    assert record.status == "completed", record.error
    (folder / f"shares-{rank}").write_text(f"{len(shares)} {max(shares)}")


def test_two_processes_fit_as_one_does(tiny: Compose, tmp_path: Path) -> None:
    config = with_positions(
        tiny, "loss=fkl", "soft_targets.cache=false", "trainer.accelerator=cpu", num_windows=72
    )
    config.output_dir = str(tmp_path / "out")
    config.teacher.model, config.student.model = {**GPT, "width": 32, "depth": 3}, GPT
    alone = run(config, tmp_path / "one")
    config.trainer.devices, config.trainer.strategy = 2, "fsdp"
    import socket

    import kd_research.training.sharded  # noqa: F401  # here, not in each of the ranks

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two").mkdir()
    arguments = ({**plain(config), "port": str(port)}, tmp_path / "two")
    multiprocessing.start_processes(work, args=arguments, nprocs=2, start_method="fork")
    one, two = (
        torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=2e-5)
    for rank in (0, 1):
        count, largest = (tmp_path / "two" / f"shares-{rank}").read_text().split()
        assert int(count) >= 4  # student and teacher, in each epoch
        assert float(largest) == pytest.approx(0.5, abs=0.02)
    assert alone.metrics["val_nll"] is not None
