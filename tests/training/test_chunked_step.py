"""Large vocabularies: the objective in chunks is the objective, and its memory is a chunk's."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from positions_data import VOCABULARY, TokenNet, tokens, with_positions
from tiny import Compose
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kd_research.evaluation.costs import LiveBytes
from kd_research.interfaces import Batch
from kd_research.losses.correlation import DIST
from kd_research.losses.divergences import JensenShannon
from kd_research.losses.logits import SoftTarget
from kd_research.losses.objective import Objective
from kd_research.losses.positions import count_valid
from kd_research.models.headless import Headless
from kd_research.soft_targets.store import SoftTargets
from kd_research.training import chunked_step as steps
from kd_research.training import distill
from kd_research.training.distill import Distiller
from kd_research.training.memory import give_freed_back, keep_freed
from kd_research.trial.run import run


def batch_of(num: int = 8) -> Batch:
    split = tokens().train
    assert isinstance(split.inputs, dict)
    return Batch(
        {"input_ids": split.inputs["input_ids"][:num]}, split.labels[:num], torch.arange(num)
    )


def module_of(monkeypatch: pytest.MonkeyPatch, chunk: int, *terms: nn.Module) -> Distiller:
    monkeypatch.setattr(distill, "LARGE_VOCABULARY", 2)
    monkeypatch.setattr(steps, "WHOLE", 0 if chunk else 1 << 60)
    monkeypatch.setattr(steps, "CHUNK", chunk * VOCABULARY)
    torch.manual_seed(0)
    student, teacher = TokenNet(8).double(), TokenNet(16).double()
    named = {f"term{k}": {"loss": term, "weight": 0.4} for k, term in enumerate(terms)}
    module = Distiller(
        student, Objective(named, 0.6), lambda p: torch.optim.SGD(p, lr=1.0), teacher=teacher
    )
    module.build(batch_of(2), 96)
    return module


def gradients(module: Distiller, batch: Batch) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    total, parts = module.losses(batch)
    total.backward()
    return (
        total.detach(),
        parts,
        [p.grad for p in module.student.parameters() if p.grad is not None],
    )


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_chunks_give_the_value_and_gradient_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    terms = SoftTarget(2.0), JensenShannon(1.0, 0.3)
    batch = batch_of()
    total, parts, grads = gradients(module_of(monkeypatch, 0, *terms), batch)
    module = module_of(monkeypatch, chunk, *terms)
    assert module.in_chunks(batch)
    found, its, theirs = gradients(module, batch)
    assert found.item() == pytest.approx(total.item(), rel=1e-12)
    assert its.keys() == parts.keys()
    for name in parts:
        assert its[name].item() == pytest.approx(parts[name].item(), rel=1e-12)
    for one, other in zip(theirs, grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("settings", [{}, {"top_k": 4}])
def test_cached_outputs_are_read_in_chunks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, int]
) -> None:
    found = []
    for chunk in (0, 5):
        module = module_of(monkeypatch, chunk, SoftTarget(1.0))
        shapes = {"logits": (12, VOCABULARY)}
        module.cached = SoftTargets(tmp_path / str(chunk), "k", 96, shapes, 1, **settings)
        module.cached.start_epoch(0)
        gradients(module, batch_of())  # computed, then read
        module.zero_grad()
        assert module.cached.computed == 8
        found.append(gradients(module, batch_of()))
        assert module.cached.computed == 8
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-6, atol=1e-9)


def test_the_memory_of_a_step_is_a_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = []
    for chunk in (0, 16):
        monkeypatch.setattr(distill, "LARGE_VOCABULARY", 2)
        monkeypatch.setattr(steps, "WHOLE", 0 if chunk else 1 << 60)
        monkeypatch.setattr(steps, "CHUNK", chunk * 5000)
        student, teacher = TokenNet(8, 5000), TokenNet(8, 5000)
        objective = Objective({"kd": {"loss": SoftTarget(1.0), "weight": 0.5}}, 0.5)
        module = Distiller(
            student, objective, lambda p: torch.optim.SGD(p, lr=1.0), teacher=teacher
        )
        batch = batch_of(80)
        module.build(batch_of(2), 96)
        present = [*student.parameters(), *teacher.parameters(), *tree_leaves(tuple(batch))]
        live = LiveBytes(present)
        before = live.now
        with live:
            module.losses(batch)[0].backward()
        peaks.append(live.peak - before)
    whole = 4 * 5000 * int((batch_of(80).labels >= 0).sum())
    assert peaks[0] > 4 * whole
    assert peaks[1] < whole


def test_what_cannot_be_chunked_is_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert not module_of(monkeypatch, 5, DIST(1.0, 1.0, 1.0)).in_chunks(batch_of())

    class Capped(TokenNet):
        def forward(self, input_ids: Tensor) -> Tensor:
            return 0.5 * (super().forward(input_ids) / 0.5).tanh()

    assert "scales or caps" in str(Headless(Capped(8)).problem(batch_of(2).inputs))
    assert Headless(TokenNet(8)).problem(batch_of(2).inputs) is None
    with caplog.at_level(logging.WARNING):
        found = steps.chunked_step(Capped(8), None, Objective({}, 1.0), batch_of(2), VOCABULARY)
    assert found is None
    assert "of the student, its logits are not what its head gives" in caplog.text


def test_a_run_in_chunks(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(with_positions(tiny, "loss=fkl"), tmp_path / "whole")
    monkeypatch.setattr(distill, "LARGE_VOCABULARY", 2)
    monkeypatch.setattr(steps, "WHOLE", 0)
    monkeypatch.setattr(steps, "CHUNK", 7 * VOCABULARY)
    found = run(with_positions(tiny, "loss=fkl"), tmp_path / "chunks")
    assert found.status == "completed", found.error
    assert found.metrics["val_nll"] == pytest.approx(whole.metrics["val_nll"], rel=1e-4)
    assert found.costs["train_step_bytes"] < whole.costs["train_step_bytes"]


def test_freed_memory_is_given_back_every_few_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[None] = []
    monkeypatch.setattr(steps, "TIDY", 3)
    monkeypatch.setattr(steps, "give_freed_back", lambda: times.append(None))
    module, batch = module_of(monkeypatch, 5, SoftTarget(1.0)), batch_of()
    gradients(module, batch)
    chunks = -(-count_valid(batch.labels) // 5)
    assert len(times) == 2 * chunks // 3, "in the forward and in the backward pass"


@pytest.mark.skipif(not hasattr(os, "confstr"), reason="no C library that can be asked")
def test_freed_blocks_between_others_go_back_to_the_machine() -> None:
    if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
        pytest.skip("mallopt and malloc_trim are glibc's")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    keep_freed()
    blocks = [torch.ones(1 << 19) for _ in range(64)]  # 2 MB each
    del blocks[::2]
    before = resident()
    give_freed_back()
    assert before - resident() > 32 << 20  # of 64 MB
    assert all(bool((block == 1).all()) for block in blocks)
