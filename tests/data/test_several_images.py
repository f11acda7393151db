"""Examples of several images, of which teacher and student see one each."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import warm
from conftest_data import pictures
from later import Later
from PIL import Image

from kd_research.configuration.config import ROOT
from kd_research.configuration.parts_checks import parts_problems
from kd_research.configuration.view_checks import channels_of
from kd_research.data import build
from kd_research.teacher.stated import model_of

datasets = Later("datasets")
LINEAR = {"_target_": "kd_research.models.mlp.MLP", "num_classes": 3, "width": 4, "depth": 1}


def write(root, num=60, seed=0):
    """Colour pictures and, in another column, grey ones that tell the class."""
    labels = [position % 3 for position in range(num)]
    colour = pictures(num, (8, 8), seed=seed)
    grey = pictures(num, (8, 8), channels=1, seed=seed + 1)[..., 0] // 4
    for image, label in zip(grey, labels, strict=True):
        image[:, 2 * label : 2 * label + 2] = 250
    rows = {
        "photo": [Image.fromarray(image) for image in colour],
        "sketch": [Image.fromarray(image) for image in grey],
        "label": labels,
    }
    kinds = {"photo": datasets.Image(), "sketch": datasets.Image()}
    features = datasets.Features(kinds | {"label": datasets.ClassLabel(names=["a", "b", "c"])})
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")
    return colour, grey


def loaded(root, store, columns, channels=4, **changes):
    arguments = {
        **{"root": str(root), "path": None, "config_name": None, "splits": {}},
        **{"input_column": None, "label_column": None, "resize": False, "num_classes": 3},
        **{"input_shape": [channels, 8, 8], "store": str(store), "name": "pairs", "seed": 0},
        **{"batch_size": 8, "val_fraction": 0.2, "test_fraction": 0.2, "split_seed": 0},
    }
    return build.images(**(arguments | {"input_columns": columns} | changes))


def test_the_images_of_an_example_stand_behind_each_other(tmp_path):
    colour, grey = write(tmp_path / "data")
    data = loaded(tmp_path / "data", tmp_path / "store", {"photo": 3, "sketch": 1})
    images = data.test.take(torch.arange(60)).inputs.numpy()
    assert np.array_equal(images[:, :3], colour.transpose(0, 3, 1, 2))
    assert np.array_equal(images[:, 3], grey)
    turned = loaded(tmp_path / "data", tmp_path / "store", {"sketch": 1, "photo": 3})
    assert np.array_equal(turned.test.take(torch.arange(60)).inputs.numpy()[:, 0], grey)
    assert len(turned.normalisation[0].flatten()) == 4


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"photo": 3, "depth": 1}, {}, "no column 'depth' of images; there are photo"),
        ({"photo": 3, "label": 1}, {}, "no column 'label' of images"),
        ({"photo": 2, "sketch": 2}, {}, "1 .grey. or 3 .RGB., got"),
        (["photo", "sketch"], {}, "try 'dataset.input_columns={image: 3, depth: 1}'"),
        ({"photo": 3, "sketch": 3}, {}, r"type dataset.input_shape=\[6,8,8\]"),
        ({"photo": 3, "sketch": 1}, {"input_column": "photo"}, "leave one of them out"),
        ({"photo": 3, "sketch": 1}, {"stream_workers": 2}, "type dataset.stream_workers=0"),
        (None, {}, "or name several columns by dataset.input_columns"),
    ],
)
def test_wrong_columns_are_told(tmp_path, columns, changes, message):
    write(tmp_path / "data", num=6)
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path / "data", tmp_path / "store", columns, **changes)


def test_a_view_by_name_is_the_channels_of_that_column():
    pairs = {"input_columns": {"photo": 3, "sketch": 1}, "input_shape": [4, 8, 8]}
    assert channels_of(["sketch"], pairs) == [3]
    assert channels_of("photo", pairs) == [0, 1, 2]
    assert channels_of(["sketch", "photo"], pairs) == [3, 0, 1, 2]
    table = {"input_columns": ["age", "dose", "outcome"], "input_shape": [3]}
    assert channels_of(["outcome", "age"], table) == [2, 0]
    model = {**LINEAR, "input_shape": [4, 8, 8]}
    net = model_of({"model": model, "view": {"columns": ["sketch"]}}, pairs).eval()
    by_number = model_of({"model": model, "view": {"channels": [3]}}, pairs).eval()
    by_number.load_state_dict(net.state_dict())
    images = torch.randn(5, 4, 8, 8)
    assert torch.equal(net(images), by_number(images))


@pytest.mark.parametrize(
    ("view", "dataset", "message"),
    [
        ({"columns": ["x"]}, {"name": "mnist"}, "which dataset mnist does not state"),
        (
            {"columns": ["x"]},
            {"input_columns": {"photo": 3}, "input_shape": [3, 8, 8]},
            "must be names of dataset.input_columns, photo, got ['x']",
        ),
        (
            {"columns": ["a"]},
            {"input_columns": ["a", "b"], "input_shape": [5]},
            "type teacher.view.channels=[NUMBER,...]",
        ),
        (
            {"columns": ["a"], "channels": [0]},
            {"input_columns": ["a"], "input_shape": [1]},
            "leave one of them out",
        ),
        ({"columns": 3}, {"input_columns": ["a"], "input_shape": [1]}, "got 3"),
    ],
)
def test_a_wrong_view_is_told_before_the_data_are_read(view, dataset, message):
    nets = {who: {"model": None, "view": None} for who in ("teacher", "student")}
    whole = {"loss": {}, "dataset": dataset, **nets, "teacher": {"model": None, "view": view}}
    told = [text for _, text in parts_problems(whole)]
    assert any(text.startswith("teacher.view") and message in text for text in told), told


def test_a_teacher_of_sketches_teaches_a_student_of_photographs(tmp_path):
    write(tmp_path / "data")
    command = [
        *(sys.executable, "-m", "kd_research.run", "dataset=hub", "teacher=mlp", "student=mlp"),
        *(f"dataset.root={tmp_path / 'data'}", "dataset.num_classes=3", "tracking=disabled"),
        "dataset.input_columns={photo: 3, sketch: 1}",
        *("dataset.input_shape=[4,8,8]", "trainer.max_epochs=3"),
        *("teacher.view={columns: [sketch]}", "student.view={columns: [photo]}"),
        *(f"hydra.run.dir={tmp_path / 'run'}", f"output_dir={tmp_path / 'out'}"),
    ]
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    metrics = record["metrics"]
    assert metrics["teacher_test_accuracy"] > 0.9, "sketches tell the class"
    assert metrics["test_accuracy"] < 0.8, "photographs are noise"
