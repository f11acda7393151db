"""Cached teacher outputs of tokens: their size, what they keep, what a fit makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from positions_data import with_positions
from tiny import Compose
from torch import Tensor

from kd_research.interfaces import Batch, Output
from kd_research.losses.logits import SoftTarget
from kd_research.soft_targets.fill import what_is_cached
from kd_research.soft_targets.store import SoftTargets
from kd_research.trial.run import run

T = 256
N_WINDOWS = 3


def store(folder: Path, vocabulary: int, context: int = T, **settings: Any) -> SoftTargets:
    made = SoftTargets(
        folder, "key", N_WINDOWS, {"logits": (context, vocabulary)}, 1, max_gb=1, **settings
    )
    made.start_epoch(0)
    return made


def logits(vocabulary: int, context: int = T, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(N_WINDOWS, context, vocabulary, generator=generator)


def ask(made: SoftTargets, given: Tensor) -> Tensor:
    return made.outputs(torch.arange(len(given)), lambda rows: Output(given[rows], {})).logits


# Bytes of a token, LANGUAGE's table: float16 values, ids of two bytes, counts of one.
SIZES = [
    (65, {"dtype": "float16"}, 130),
    (4096, {"dtype": "float16"}, 8192),
    (4096, {"dtype": "float16", "top_k": 50}, 204),
    (50257, {"dtype": "float16", "top_k": 50}, 204),
    (4096, {"dtype": "float16", "draws": 12}, 36),
    (50257, {"dtype": "float16", "draws": 12}, 36),
]


@pytest.mark.parametrize(("vocabulary", "settings", "num_bytes"), SIZES)
def test_bytes_on_disk(
    tmp_path: Path, vocabulary: int, settings: dict[str, Any], num_bytes: int
) -> None:
    made = store(tmp_path, vocabulary, **settings)
    (file,) = made.directory.glob("view-*.bin")
    assert file.stat().st_size == pytest.approx(num_bytes * T * N_WINDOWS, rel=0.01)


def test_ids_above_65535_take_four_bytes(tmp_path: Path) -> None:
    given = torch.zeros(N_WINDOWS, 2, 70_000)
    given[:, :, 69_999], given[:, :, 7] = 5.0, 4.0
    got = ask(store(tmp_path, 70_000, 2, top_k=2), given)
    assert got.argmax(2).unique().tolist() == [69_999]
    assert torch.equal(got.topk(2).values, given.topk(2).values)


def test_all_logits_come_back_as_they_were(tmp_path: Path) -> None:
    given = logits(65)
    assert torch.equal(ask(store(tmp_path / "32", 65), given), given)
    assert torch.equal(
        ask(store(tmp_path / "16", 65, dtype="float16"), given), given.half().float()
    )
    pictures = torch.randn(N_WINDOWS, 4, 5, 6)
    made = SoftTargets(tmp_path, "p", N_WINDOWS, {"logits": (4, 5, 6)}, 1, top_k=2)
    made.start_epoch(0)
    got = ask(made, pictures)
    assert torch.equal(got.topk(2, dim=1).values, pictures.topk(2, dim=1).values)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_top_k_and_the_tail_are_a_distribution(tmp_path: Path, dtype: str) -> None:
    given = logits(40_000, 8)
    made = store(tmp_path, 40_000, 8, top_k=50, dtype=dtype)
    for _ in range(2):  # computed, then read
        got = ask(made, given).softmax(2)
        whole = given.softmax(2)
        ids = given.topk(50).indices
        accuracy = {"rtol": 1e-3 if dtype == "float32" else 6e-3, "atol": 1e-6}
        torch.testing.assert_close(got.gather(2, ids), whole.gather(2, ids), **accuracy)
        rest, expected = (p.scatter(2, ids, 0.0) for p in (got, whole))
        torch.testing.assert_close(rest.sum(2), expected.sum(2), **accuracy)
    assert made.computed == N_WINDOWS


def kl_gradient(student: Tensor, teacher: Tensor) -> Tensor:
    leaf = student.detach().requires_grad_()
    rows = Output(leaf.flatten(0, 1), {}), Output(teacher.flatten(0, 1), {})
    SoftTarget(1.0)(*rows, Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1))).backward()
    assert leaf.grad is not None
    return leaf.grad


def flat_teacher(vocabulary: int, context: int) -> Tensor:
    """Long-tailed: the 50 most probable of 4,096 tokens have 0.5 to 0.6 of the mass."""
    generator = torch.Generator().manual_seed(0)
    ranks = -torch.arange(1, vocabulary + 1).float().log()
    noise = 0.5 * torch.randn(N_WINDOWS, context, vocabulary, generator=generator)
    order = torch.rand(N_WINDOWS, context, vocabulary, generator=generator).argsort(dim=2)
    return torch.empty_like(noise).scatter_(2, order, ranks + noise)


def test_the_tail_keeps_the_gradient_and_draws_keep_it_on_average(tmp_path: Path) -> None:
    teacher = flat_teacher(4096, 8)
    student = teacher + 0.7 * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(1))
    exact = kl_gradient(student, teacher)

    def error(made: Tensor) -> float:
        return float((kl_gradient(student, made) - exact).norm() / exact.norm())

    with_tail = ask(store(tmp_path, 4096, 8, top_k=50, dtype="float16"), teacher)
    top = teacher.topk(50)
    renormalised = torch.full_like(teacher, -1e30).scatter(2, top.indices, top.values)
    assert error(with_tail) < 0.25
    assert error(renormalised) > 0.8  # what is done in the field without a tail
    gradients, single = [], []
    for number in range(100):
        made = SoftTargets(
            tmp_path / "draws", number, N_WINDOWS, {"logits": (8, 4096)}, 1, draws=50
        )
        made.start_epoch(0)
        drawn = ask(made, teacher)
        single.append(error(drawn))
        gradients.append(kl_gradient(student, drawn))
    mean = torch.stack(gradients).mean(0)
    assert float((mean - exact).norm() / exact.norm()) < 1.3 * max(single) / math.sqrt(100)


def test_draws_are_the_same_whoever_draws(tmp_path: Path) -> None:
    given = logits(100, 16)
    one = ask(store(tmp_path / "a", 100, 16, draws=12), given)
    made = store(tmp_path / "b", 100, 16, draws=12)
    for place in (2, 0, 1):  # one at a time, in another order
        index = torch.tensor([place])
        made.outputs(index, lambda rows, place=place: Output(given[[place]], {}))
    other = ask(made, given)
    assert torch.equal(one, other)
    frequencies = one.softmax(2)
    torch.testing.assert_close(12 * frequencies, (12 * frequencies).round(), atol=1e-4, rtol=0)
    assert not torch.equal(one[0], one[1])


def test_some_positions_alone_become_dense(tmp_path: Path) -> None:
    given = logits(300, 8)
    for settings in ({}, {"top_k": 20}, {"draws": 9}):
        made = store(tmp_path, 300, 8, **settings)
        whole = ask(made, given)
        assert made._file is not None
        rows, _ = made._file.read(torch.arange(N_WINDOWS))
        example, position = torch.tensor([2, 0, 2]), torch.tensor([7, 3, 0])
        part = made.encoding.logits_at(rows, example, position)
        assert torch.equal(part, whole[example, position])


def weights(folder: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return loaded


def test_a_fit_with_all_float32_logits_is_the_live_one_bit_for_bit(
    tiny: Compose, tmp_path: Path
) -> None:
    own = [f"output_dir={tmp_path}/out", "soft_targets.top_k=null", "soft_targets.dtype=float32"]
    live = run(with_positions(tiny, *own, "soft_targets.cache=false"), tmp_path / "live")
    first = run(with_positions(tiny, *own), tmp_path / "first")
    second = run(with_positions(tiny, *own), tmp_path / "second")
    assert first.provenance["soft_targets"]["computed"] == 96
    assert second.provenance["soft_targets"]["computed"] == 0
    expected = weights(tmp_path / "live")
    for name in ("first", "second"):
        found = weights(tmp_path / name)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    for name, value in live.metrics.items():
        assert second.metrics[name] == value, name


@pytest.mark.parametrize("settings", [["soft_targets.top_k=4"], ["soft_targets.draws=12"]])
def test_a_fit_with_few_classes_cached(tiny: Compose, tmp_path: Path, settings: list[str]) -> None:
    own = ["loss=fkl", "loss.lambda=1", "trainer.max_epochs=6", "optimizer.lr=0.01", *settings]
    whole = run(with_positions(tiny, *own[:-1]), tmp_path / "whole")
    found = run(with_positions(tiny, *own), tmp_path / "few")
    assert found.status == "completed", found.error
    assert found.metrics["teacher_kl"] < 2 * whole.metrics["teacher_kl"]
    assert found.metrics["teacher_val_nll"] == whole.metrics["teacher_val_nll"]


def test_draws_are_for_the_forward_divergence_alone(tiny: Compose, tmp_path: Path) -> None:
    for loss in ("rkl", "kd"):
        record = run(with_positions(tiny, f"loss={loss}", "soft_targets.draws=12"), tmp_path / loss)
        assert record.status == "failed"
        assert f"not {loss}; type loss=fkl loss.temperature=1" in str(record.error)


def test_auto_caches_few_of_large_vocabularies_of_tokens() -> None:
    settings = {"dtype": None, "top_k": "auto", "draws": None}
    assert what_is_cached(settings, (64, 50257)) == {"dtype": "float16", "top_k": 50, "draws": None}
    whole = {"dtype": "float32", "top_k": None, "draws": None}
    assert what_is_cached(settings, (64, 256)) == whole
    assert what_is_cached(settings, (21_841,)) == whole  # a classifier's
    assert what_is_cached({**settings, "dtype": "float32"}, (64, 50257))["dtype"] == "float32"
    assert what_is_cached({**settings, "draws": 12}, (64, 50257))["top_k"] is None
