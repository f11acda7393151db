"""Splits, order and shares of the in-memory data module."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from kd_research.data.batches import Batches
from kd_research.data.module import DataModule
from kd_research.data.sources import Split, Splits, digits


def module(**changes: Any) -> DataModule:
    settings: dict[str, Any] = {
        "name": "digits",
        "source": digits,
        "input_shape": [1, 8, 8],
        "num_classes": 10,
        "batch_size": 64,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "split_seed": 0,
        "mean": [0.3],
        "std": [0.4],
        "seed": 0,
    }
    return DataModule(**settings | changes)


def numbered(size: int, classes: int = 4) -> Split:
    return Split(torch.arange(size).float().view(-1, 1), torch.arange(size) % classes)


def rows(split: Split) -> set[bytes]:
    inputs = split.take(torch.arange(len(split))).inputs
    assert isinstance(inputs, torch.Tensor)
    return {row.numpy().tobytes() for row in inputs}


def test_splits_are_disjoint_stratified_and_by_seed() -> None:
    data = module()
    train, val, test = rows(data.train), rows(data.val), rows(data.test)
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert not train & val
    assert not train & test
    assert not val & test
    whole = torch.bincount(digits().train.labels) / 1797
    for split in (data.train, data.val, data.test):
        assert (torch.bincount(split.labels) / len(split) - whole).abs().max() < 0.01
    assert rows(module(seed=5).val) == val, "the run's seed does not move the splits"
    assert rows(module(split_seed=5).val) != val
    assert module().fingerprint() == data.fingerprint() == module(seed=3).fingerprint()
    assert module(split_seed=5).fingerprint() != data.fingerprint()
    assert module(std=[0.5]).fingerprint() != data.fingerprint()


@pytest.mark.parametrize("size", [64, 101, 65])
def test_shares_of_processes_make_the_global_batches(size: int) -> None:
    split = numbered(size)
    one = Batches(split, 16, seed=3)
    three = [Batches(split, 16, seed=3, rank=rank, world_size=3) for rank in range(3)]
    for loader in (one, *three):
        loader.sampler.set_epoch(2)
    whole = [set(batch.index.tolist()) for batch in one]
    shares = [[set(batch.index.tolist()) for batch in loader] for loader in three]
    assert len({len(share) for share in shares}) == 1, "every process has as many batches"
    for number, parts in enumerate(zip(*shares, strict=True)):
        assert set.union(*parts) == whole[number]
        assert sum(map(len, parts)) == len(whole[number]) == one.num_labels(number, number + 1)
    left_out = size % 16 if 0 < size % 16 < 3 else 0
    assert sum(map(len, whole[: len(shares[0])])) == size - left_out


def test_evaluation_serves_every_example_once_in_order() -> None:
    shares = [Batches(numbered(65), 16, rank=rank, world_size=2) for rank in range(2)]
    assert {len(list(share)) for share in shares} == {5}
    served = [int(i) for share in shares for batch in share for i in batch.index]
    assert sorted(served) == list(range(65))
    assert [int(i) for batch in Batches(numbered(65), 16) for i in batch.index] == list(range(65))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = Batches(numbered(50), 7, seed=seed)
        loader.sampler.set_epoch(epoch)
        torch.manual_seed(epoch + 100 * seed)
        return [int(i) for batch in loader for i in batch.index]

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_prepared_batches_are_normalised() -> None:
    data = module()
    batch = next(iter(data.batches(data.train)))
    prepared = data.prepare(batch)
    assert isinstance(prepared.inputs, torch.Tensor)
    assert isinstance(batch.inputs, torch.Tensor)
    torch.testing.assert_close(prepared.inputs * 0.4 + 0.3, batch.inputs)
    assert torch.equal(prepared.labels, data.train.labels[:64])


def test_published_splits_are_used_where_they_exist() -> None:
    published = Splits(numbered(40), numbered(8), numbered(12))
    data = module(source=lambda: published, input_shape=[1], num_classes=4)
    assert (len(data.train), len(data.val), len(data.test)) == (40, 8, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [3, 8, 8]}, r"try dataset.input_shape=\[1, 8, 8\]"),
        ({"num_classes": 9}, "labels of 'digits' run from 0 to 9"),
        (
            {
                "source": partial(Splits, numbered(40), numbered(0), numbered(4)),
                "num_classes": 4,
                "input_shape": [1],
            },
            "the val split of dataset 'digits' is empty",
        ),
    ],
)
def test_what_does_not_fit_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**changes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_measured_mean_is_of_the_training_part_alone(dtype: torch.dtype) -> None:
    """Validation and test, cut from the published training split, are not in it."""
    inputs = torch.randint(0, 256, (200, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    inputs = inputs.to(dtype) if dtype == torch.uint8 else inputs / 255
    labels = torch.arange(200) % 4
    published = Splits(Split(inputs, labels), mean=[0.9, 0.9], std=[0.1, 0.1])
    settings: dict[str, Any] = {"num_classes": 4, "batch_size": 16, "val_fraction": 0.3}
    settings |= {"test_fraction": 0.3, "split_seed": 1, "seed": 0, "input_shape": [2, 3, 3]}
    for subset in (None, 0.5):  # a subset is of the same inputs
        data = DataModule("d", lambda: published, **settings, subset=subset)
        cut = DataModule("d", lambda: published, **settings, mean=[0.5], std=[0.5]).train
        pixels = cut.take(torch.arange(len(cut))).inputs.double()
        pixels = pixels / 255 if dtype == torch.uint8 else pixels
        std, mean = torch.std_mean(pixels, dim=(0, 2, 3), correction=0)
        unit = 255.0 if dtype == torch.uint8 else 1.0
        torch.testing.assert_close(data._scale.flatten(), (1 / (unit * std)).float())
        torch.testing.assert_close(data._shift.flatten(), (-mean / std).float())
