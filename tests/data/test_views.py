"""What the training, validation and test splits are, and how batches are prepared."""

from dataclasses import replace

import pytest
import torch

from kd_research.data.augment import Augment
from kd_research.data.cuts import choose, cut
from kd_research.data.module import DataModule
from kd_research.data.sources import Split, Splits, synthetic
from kd_research.interfaces import Batch

NAMES = ["ant", "bee", "cow", "dog"]


def source(num=400, val=False, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)

    def split(size):
        inputs = torch.randint(0, 256, (size, 3, 6, 6), generator=generator)
        return Split(inputs.to(dtype), torch.arange(size) % 4)

    return Splits(split(num), split(80) if val else None, split(100), class_names=NAMES)


def module(**changes) -> DataModule:
    arguments = {
        "name": "made",
        "source": source,
        "input_shape": [3, 6, 6],
        "num_classes": 4,
        "batch_size": 32,
        "val_fraction": 0.25,
        "test_fraction": 0.2,
        "split_seed": 0,
        "seed": 0,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.5],
    }
    return DataModule(**(arguments | changes))


def rows(split):
    return set(split.rows.tolist())


def test_validation_is_cut_by_the_split_seed_alone_and_stratified():
    data = module()
    assert len(data.train) == 300
    assert not rows(data.train) & rows(data.val)
    assert data.val.labels.bincount().tolist() == [25] * 4
    assert rows(module(seed=1).val) == rows(data.val)
    assert rows(module(split_seed=1).val) != rows(data.val)
    assert len(module(source=lambda: source(val=True)).train) == 400


@pytest.mark.parametrize(("subset", "count"), [(0.1, 30), (50, 50), (None, 300), (300, 300)])
def test_a_subset_is_stratified_and_of_the_training_split_alone(subset, count):
    data, whole = module(subset=subset), module()
    assert len(data.train) == count
    counts = data.train.labels.bincount(minlength=4)
    assert counts.max() - counts.min() <= 1
    assert rows(data.train) <= rows(whole.train)
    assert rows(data.val) == rows(whole.val)
    assert len(data.test) == 100


def test_classes_are_left_out_of_the_training_split_alone():
    without = module(exclude_classes=["cow"])
    assert without.train.labels.unique().tolist() == [0, 1, 3]
    assert without.val.labels.unique().tolist() == [0, 1, 2, 3]
    only = module(only_classes=["bee", 3], subset=0.5)
    assert only.train.labels.bincount(minlength=4).tolist() == [0, 38, 0, 37]
    assert without.fingerprint() != only.fingerprint() != module().fingerprint()
    assert module().fingerprint() == module(seed=3).fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exclude_classes": ["cat"]}, "no class 'cat'; there are ant, bee, cow, dog"),
        ({"only_classes": [7]}, "no class 7; there are"),
        ({"only_classes": ["ant"], "exclude_classes": ["ant"]}, "no training example is left"),
        ({"subset": 301}, "a count in 1 to 300, got 301; try dataset.subset=0.1"),
        ({"subset": 0}, "got 0"),
        ({"subset": 2.5}, r"a share in \(0, 1\] or a count in 1 to 300, got 2.5"),
        ({"subset": True}, "got True"),
        ({"subset": "many"}, "got 'many'"),
        ({"mean": [0.5, 0.5]}, r"dataset.mean must be 3 numbers, .*; try .*=\[0.5,0.5,0.5\]"),
        ({"mean": 0.5}, "dataset.mean must be 3 numbers"),
        ({"mean": ["a"]}, "dataset.mean must be 3 numbers"),
        ({"std": [0.2, 0, 0.2]}, "dataset.std must be 3 numbers above 0"),
        (
            {"val_fraction": 0.001},
            "cut 0.001 of 400 .* of 399 and 1 .* larger dataset.val_fr",
        ),
        ({"val_fraction": 0.999}, "parts of 0 and 400 for 4 classes; try a smaller dataset.val_fr"),
        ({"split_seed": -1}, "dataset.split_seed must be a whole number from 0 .*got -1"),
        ({"split_seed": "abc"}, "dataset.split_seed must be a whole number .*got abc"),
        ({"exclude_classes": "cat"}, "no class 'cat'"),
        ({"input_shape": [1, 6, 6]}, r"try dataset.input_shape=\[3, 6, 6\]"),
        ({"num_classes": 3}, "labels of 'made' run from 0 to 3"),
    ],
)
def test_bad_choices_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        module(**changes)


def test_what_cannot_be_cut_is_told():
    split = Split(torch.zeros(21, 1), torch.tensor([0, 1] * 10 + [2]))
    with pytest.raises(ValueError, match="class 2 has a single example, a cut needs two of each"):
        cut(split, 0.2, 0)
    with pytest.raises(ValueError, match="try a larger dataset.test_fraction"):
        cut(split.part(torch.arange(20)), 0.01, 0, "test_fraction")
    with pytest.raises(ValueError, match="cannot cut 0.2 of 0 examples off, .*: there are none"):
        cut(split.part(torch.arange(0)), 0.2, 0)


@pytest.mark.parametrize("given", [3, "dog", ["dog"], [3]])
def test_a_single_class_is_a_list_of_one(given):
    assert module(exclude_classes=given).train.labels.unique().tolist() == [0, 1, 2]
    assert module(only_classes=given).train.labels.unique().tolist() == [3]


def test_a_constant_channel_is_not_divided_by_its_deviation():
    measured = replace(source(), mean=[0.5, 0.5, 0.0], std=[0.25, 0.25, 0.0])
    data = module(source=lambda: measured, mean=None, std=None)
    given = data.prepare(next(iter(data.batches(data.val)))).inputs
    assert given.isfinite().all()


def test_one_number_stands_for_all_channels():
    assert module(mean=[0.5], std=[0.2])._scale.numel() == 1


def test_an_uneven_subset_keeps_the_shares():
    labels = torch.tensor([0] * 90 + [1] * 10)
    split = choose(Split(torch.zeros(100, 1), labels), 20, (), None, 2, None, seed=0)
    assert split.labels.bincount().tolist() == [18, 2]


def test_bytes_are_pixels_and_floats_are_as_they_are():
    expected_mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    expected_std = torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    for dtype, unit in ((torch.uint8, 255), (torch.float32, 1)):
        data = module(source=lambda dtype=dtype: source(dtype=dtype))
        index = torch.arange(5)
        taken = data.train.take(index)
        given = data.prepare(Batch(taken.inputs, taken.labels, index)).inputs
        pixels = taken.inputs.float() / unit
        torch.testing.assert_close(given, (pixels - expected_mean) / expected_std)


def crop(seed):
    return Augment(seed=seed, crop=2, flip=True)


def mix(seed):
    return Augment(seed=seed, crop=1, mixup=0.5, cutmix=1.0)


def test_views_follow_the_epochs():
    data = module(augment=crop)
    assert (data.num_views, [data.view(e) for e in range(4)]) == (None, [0, 1, 2, 3])
    data.views = 3
    assert (data.num_views, [data.view(e) for e in range(4)]) == (3, [0, 1, 2, 0])
    data.views = 1
    assert (data.num_views, data.view(5)) == (1, None)
    assert data.with_seed(1).num_views is None
    assert (module().num_views, module().view(5)) == (1, None)


@pytest.mark.parametrize("augment", [crop, mix])
def test_an_example_looks_the_same_in_every_batch_and_process(augment):
    data = module(augment=augment)

    def look(index):
        taken = data.train.take(index)
        return data.prepare(Batch(taken.inputs, taken.labels, index), view=4)

    together, alone = look(torch.tensor([7, 250, 3])), look(torch.tensor([250]))
    assert torch.equal(together.inputs[1:2], alone.inputs)
    assert torch.equal(together.labels[1:2], alone.labels)
    other = data.with_seed(1)
    taken = other.train.take(torch.tensor([250]))
    changed = other.prepare(Batch(taken.inputs, taken.labels, torch.tensor([250])), view=4)
    assert not torch.equal(changed.inputs, alone.inputs)


def test_mixed_labels_are_probabilities():
    data = module(augment=mix)
    index = torch.arange(64)
    taken = data.train.take(index)
    batch = data.prepare(Batch(taken.inputs, taken.labels, index), view=0)
    assert batch.labels.shape == (64, 4)
    torch.testing.assert_close(batch.labels.sum(1), torch.ones(64))
    assert (batch.labels.max(1).values < 1).any()
    assert data.prepare(Batch(taken.inputs, taken.labels, index)).labels is taken.labels


def test_channels_last_is_a_layout_and_nothing_else():
    data, index = module(augment=crop), torch.arange(6)
    taken = data.train.take(index)
    plain = data.prepare(Batch(taken.inputs, taken.labels, index), view=0).inputs
    data.channels_last = True
    other = data.prepare(Batch(taken.inputs, taken.labels, index), view=0).inputs
    assert other.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, other)


def test_synthetic_data_can_be_learned_and_repeat():
    first, second = (synthetic([5], 3, 60, 30, noise=0.1) for _ in "ab")
    assert torch.equal(first.train.inputs, second.train.inputs)
    means = torch.stack([first.train.inputs[first.train.labels == c].mean(0) for c in range(3)])
    nearest = torch.cdist(first.test.inputs, means).argmin(1)
    assert torch.equal(nearest, first.test.labels)
    with pytest.raises(ValueError, match="num_train and num_test >= num_classes=3, got 2 and 9"):
        synthetic([5], 3, 2, 9, 0.1)
