"""Data as people have them: each form loads, with the right pixels, numbers, words and labels."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas
import pytest
import torch
from conftest_data import pictures
from hydra.utils import instantiate
from PIL import Image
from tiny import composed, plain

from kd_research.data.hub import Source
from kd_research.data.labels import read_labels

LABELS = [i % 3 for i in range(30)]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make(dataset, root, *overrides):
    config = plain(
        composed(f"dataset={dataset}", f"dataset.root={root}", f"output_dir={root}.out", *overrides)
    )
    return instantiate(config["dataset"], seed=0)


def images(root, *overrides):
    return make("hub", root, "dataset.input_shape=[3,6,8]", "dataset.num_classes=3", *overrides)


def all_inputs(data):
    """The examples of all splits, sorted, for comparison with what was written."""
    parts = [split.take(torch.arange(len(split))) for split in (data.train, data.val, data.test)]
    inputs = torch.cat([part.inputs for part in parts])
    labels = torch.cat([part.labels for part in parts])
    return inputs, labels


@pytest.mark.parametrize("form", ["struct", "binary"])
@pytest.mark.parametrize("streamed", [False, True])
def test_images_in_parquet_by_pandas(form, streamed, tmp_path):
    pixels = pictures(30)
    cells = [png(each) for each in pixels]
    column = [{"bytes": cell, "path": None} for cell in cells] if form == "struct" else cells
    frame = pandas.DataFrame({"image": column, "label": LABELS}, index=range(5, 35))
    frame.to_parquet(tmp_path / "train.parquet")
    extra = ["dataset.stream_workers=1", "dataset.mean=[0.5]", "dataset.std=[0.2]"] * streamed
    data = images(tmp_path, *extra)
    inputs, labels = all_inputs(data)
    assert len(inputs) == 30
    for one, label in zip(inputs, labels, strict=True):
        at = [i for i in range(30) if np.array_equal(pixels[i].transpose(2, 0, 1), one.numpy())]
        assert [LABELS[i] for i in at] == [label]


def test_a_flat_folder_of_classes(tmp_path):
    for at, each in enumerate(pictures(30)):
        folder = tmp_path / "set" / ("cat", "dog", "emu")[at % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(folder / f"{at}.png")
    data = images(tmp_path / "set")
    assert data.class_names == ["cat", "dog", "emu"]
    assert sum(map(len, (data.train, data.val, data.test))) == 30
    assert all_inputs(data)[1].bincount().tolist() == [10, 10, 10]


def flowers(num=60):
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, num)
    return pandas.DataFrame(
        {
            "length": kind + rng.normal(0, 0.1, num),
            "count": rng.integers(1, 9, num),
            "wet": rng.integers(0, 2, num).astype(bool),
            "colour": np.array(["red", "blue", "white"])[kind],
            "species": np.array(["setosa", "virginica", "versicolor"])[kind],
        }
    )


@pytest.mark.parametrize("form", ["csv", "semicolons", "parquet", "jsonl", "folder"])
def test_a_table_of_numbers_and_categories(form, tmp_path):
    frame, path = flowers(), tmp_path / f"flowers.{form}"
    if form == "parquet":
        frame.to_parquet(path)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif form == "folder":
        path.mkdir()
        frame.to_csv(path / "train.csv", index=False)
        frame[:9].to_csv(path / "test.csv", index=False)
    else:
        path = path.with_suffix(".csv")
        frame.to_csv(path, index=False, sep=";" if form == "semicolons" else ",")
    stated = ["dataset.label_column=species", "dataset.num_classes=3", "dataset.input_shape=[6]"]
    data = make("table", path, *stated)
    assert data.class_names == ["setosa", "versicolor", "virginica"]
    inputs, labels = all_inputs(data)
    assert inputs.shape == ((69, 6) if form == "folder" else (60, 6))
    assert inputs.dtype == torch.float32
    red = inputs[labels == 0]
    assert red[:, 3:].tolist() == [[0, 1, 0]] * len(red), "blue, red, white"
    batch = next(iter(data.batches(data.train)))
    prepared = data.prepare(batch).inputs
    assert prepared.mean(dim=0).abs().max() < 0.6, "each column is standardised"
    assert 0.5 < prepared[:, 1].std() < 1.5


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        ({}, ["dataset.input_shape=[4]"], r"has 6 columns of inputs \(3 of numbers, 3 of the val"),
        ({"count": [1, None, *[1] * 58]}, [], "'count' .* has no value in 1 of 60 rows, .* row 1"),
        (
            {"count": [1, np.inf, *[1.0] * 58]},
            [],
            "'count' .* has inf in row 1, which is no finite",
        ),
        ({}, ["dataset.label_column=null"], "no label; there are length .*type dataset.label_col"),
        ({}, ["dataset.input_columns=[length,size]"], "no column size; there are length"),
        ({}, ["dataset.input_columns=[length,species]"], "has the label column 'species'"),
        (
            {"when": pandas.to_datetime(["2026-01-01"] * 60).as_unit("ns")},
            [],
            r"'when' is timestamp.*'dataset.input_columns=\[length,count,wet,colour\]'",
        ),
    ],
)
def test_what_a_table_cannot_be_is_told(change, overrides, message, tmp_path):
    flowers().assign(**change).to_parquet(tmp_path / "flowers.parquet")
    stated = ["dataset.label_column=species", "dataset.num_classes=3", "dataset.input_shape=[6]"]
    with pytest.raises(Exception, match=message):
        make("table", tmp_path / "flowers.parquet", *stated, *overrides)


def test_a_column_of_names_is_no_category(tmp_path):
    names = [f"name {at}" for at in range(600)]
    flowers(600).assign(name=names).to_csv(tmp_path / "f.csv", index=False)
    stated = ["dataset.label_column=species", "dataset.num_classes=3", "dataset.input_shape=[6]"]
    with pytest.raises(
        Exception, match="'name' has 432 different texts in 432 training rows, .*at most 256"
    ):
        make("table", tmp_path / "f.csv", *stated)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_text_in_rows(form, tmp_path):
    rows = [{"text": f"a {kind}, number {i}", "label": kind} for i in range(20)
            for kind in ("good", "bad")]  # fmt: skip
    path = tmp_path / f"reviews.{form}"
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pandas.DataFrame(rows).to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
    data = make("hub_text", path, "dataset.num_classes=2")
    assert data.class_names == ["bad", "good"]
    assert sum(map(len, (data.train, data.val, data.test))) == 40
    assert set(data.train.inputs) == {"input_ids", "attention_mask"}


def read(train, test=None, num_classes=3, renumber=False):
    import datasets

    rows = {
        split: datasets.Dataset.from_dict({"y": values})
        for split, values in {"train": train, "test": test or train}.items()
    }
    return read_labels(Source(root="made", renumber=renumber), rows, "y", num_classes)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([1, 2, 3], 3, "3 numbers that start at 1: type dataset.renumber=true to .* 1 becomes 0"),
        ([1, 2, 3], 2, "start at 1: type dataset.renumber=true dataset.num_classes=3 to number"),
        ([0, 5, 9], 3, "have gaps: type dataset.renumber=true to .*0 becomes 0 and 9 2$"),
        ([0, 1, 3], 4, "no training example of class 2.*renumber=true dataset.num_classes=3"),
        ([0, 1, 250], 4, "check dataset.num_classes and dataset.label_column$"),
    ],
)
def test_labels_that_are_no_classes_are_told_with_what_to_type(labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        read(labels, num_classes=num_classes)


@pytest.mark.parametrize("labels", [[1, 2, 3], [0, 5, 9], [-1, 0, 1], [1.0, 2.0, 30.0]])
def test_labels_are_renumbered_in_their_order(labels):
    given, names = read([*labels, labels[0]], renumber=True)
    assert given["train"].tolist() == [0, 1, 2, 0]
    assert names == [str(int(label)) for label in labels]


@pytest.mark.parametrize("renumber", [False, True])
def test_a_label_that_only_test_has_is_named(renumber):
    train, test = (["a", "b"], ["a", "emu", "emu"]) if not renumber else ([1, 2], [1, 7, 7])
    shown = "7" if renumber else "emu"
    message = rf"split 'test' has {shown} \(2 rows\), which no training example has; .*test=null"
    with pytest.raises(ValueError, match=message):
        read(train, test, num_classes=2, renumber=renumber)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("null", "there is no image, the cell is null"),
        ("huge", r"Image size \(\d+ pixels\) exceed"),
    ],
)
def test_a_null_or_huge_image_is_named(bad, message, streamed, tmp_path, monkeypatch):
    cells = [png(each) for each in pictures(30)]
    if bad == "null":
        cells[4] = None
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
        cells[4] = png(np.zeros((14, 30, 3), dtype=np.uint8))
    pandas.DataFrame({"image": cells, "label": LABELS}).to_parquet(tmp_path / "train.parquet")
    extra = ["dataset.stream_workers=1", "dataset.mean=[0.5]", "dataset.std=[0.2]"] * streamed
    with pytest.raises(Exception, match=f"(example|image) 4(:| cannot be read:) {message}"):
        all_inputs(images(tmp_path, *extra))
