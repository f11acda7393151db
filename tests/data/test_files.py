"""Which local files make a split: one configuration's, and all of its shards."""

import os

import numpy as np
import pytest
from conftest_data import pictures, write_parquet
from PIL import Image

from kd_research.data import files
from kd_research.data.decode import decoded
from kd_research.data.files import known_by, local_files
from kd_research.data.hub import Source, open_splits


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    "names",
    [
        ["train-0.parquet", "test-0.parquet"],
        ["data/train-0.parquet", "data/test-0.parquet"],
        ["train/train-0.parquet", "test/test-0.parquet"],
    ],
)
def test_the_layouts_of_one_set(names, tmp_path):
    touch(tmp_path, *names)
    found = local_files(tmp_path)
    assert found == {"train": [tmp_path / names[0]], "test": [tmp_path / names[1]]}


def test_the_configuration_is_a_folder(tmp_path):
    files = ["en/train-0.parquet", "en/test-0.parquet", "fr/train-0.parquet", "fr/test-0.parquet"]
    touch(tmp_path, *files)
    assert local_files(tmp_path, "fr")["train"] == [tmp_path / "fr/train-0.parquet"]
    with pytest.raises(ValueError, match="has splits in 2 folders: en, fr; .*config_name=fr"):
        local_files(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config_name=de is no folder.*\['en', 'fr'\]"):
        local_files(tmp_path, "de")
    with pytest.raises(ValueError, match="^dataset.root=.* has splits in 2 folders"):
        open_splits(Source(str(tmp_path)), tmp_path / "cache")


def test_the_configuration_of_an_image_folder(tmp_path):
    for place in ("a/train/cat", "b/train/cat"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(pictures(1)[0]).save(tmp_path / place / "x.png")
    assert local_files(tmp_path, "b") == {"train": [tmp_path / "b/train"]}


def test_rows_are_those_of_the_configuration(tmp_path):
    write_parquet(tmp_path / "set" / "en", "train", pictures(3), [0, 1, 2])
    write_parquet(tmp_path / "set" / "fr", "train", pictures(6), [0, 1, 2] * 2)
    splits = open_splits(Source(str(tmp_path / "set"), name="en"), tmp_path / "cache")
    assert len(splits["train"]) == 3


def test_an_incomplete_download_is_told(tmp_path):
    write_parquet(tmp_path, "train", pictures(3), [0, 1, 2])
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "train-00001-of-00003.parquet")
    write_parquet(tmp_path, "test", pictures(3), [0, 1, 2])
    missing = "lacks 2 of 3 files: train-00000-of-00003.parquet, train-00002-of-00003.parquet"
    with pytest.raises(ValueError, match=missing):
        open_splits(Source(str(tmp_path)), tmp_path / "cache")
    for shard in (0, 2):
        write_parquet(tmp_path, "train", pictures(3), [0, 1, 2])
        file = tmp_path / "train-00000-of-00001.parquet"
        file.rename(tmp_path / f"train-0000{shard}-of-00003.parquet")
    touch(tmp_path, "validation-00000-of-00002.parquet")
    splits = open_splits(Source(str(tmp_path), splits={"validation": None}), tmp_path / "cache")
    assert len(splits["train"]) == 9


def test_a_large_folder_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    for name in "ab":
        (tmp_path / "cat" / name).write_bytes(b"123456")
    splits = {"train": [tmp_path]}
    small = known_by(splits)
    os.utime(tmp_path / "cat" / "a", ns=(1, 1))
    assert known_by(splits) == small, "the content alone counts"
    monkeypatch.setattr(files, "file_digest", lambda _: pytest.fail("read"))
    large = known_by(splits, whole_up_to=11)
    assert known_by(splits, whole_up_to=11) == large
    os.utime(tmp_path / "cat" / "a", ns=(2, 2))
    changed = known_by(splits, whole_up_to=11)
    assert [new == old for new, old in zip(changed, large, strict=True)] == [False, True]


def image_folder(root, shades):
    """Class -> the grey values of its training pictures, 4x4."""
    for name, values in shades.items():
        (root / "train" / name).mkdir(parents=True)
        for at, value in enumerate(values):
            picture = Image.new("L", (4, 4), value)
            picture.save(root / "train" / name / f"{at}.png")


def shades_of(source, num_classes, store):
    """Label -> the grey values of its decoded training pictures."""
    folder = decoded(source, num_classes, store, input_shape=(1, 4, 4))
    pixels = np.load(folder / "train-inputs.npy")[:, 0, 0, 0].tolist()
    labels = np.load(folder / "train-labels.npy").tolist()
    found = {}
    for label, value in zip(labels, pixels, strict=True):
        found.setdefault(label, []).append(value)
    return found


def test_a_path_is_no_pattern(tmp_path):
    """d/p[12] beside d/p1 was read as d/p1, and kept under p[12]'s key."""
    image_folder(tmp_path / "p1", {"a": [1], "b": [2]})
    image_folder(tmp_path / "p[12]", {"a": [11], "b?": [12]})
    store = tmp_path / "st[o]re*"
    assert shades_of(Source(str(tmp_path / "p[12]")), 2, store) == {0: [11], 1: [12]}
    write_parquet(tmp_path / "q1", "train", pictures(3), [0, 1, 2])
    write_parquet(tmp_path / "q[12]", "train", pictures(6), [0, 1, 2] * 2)
    assert len(open_splits(Source(str(tmp_path / "q[12]")), tmp_path / "cache")["train"]) == 6


def test_links_are_followed_in_content_and_key(tmp_path):
    image_folder(tmp_path / "far", {"cat": [1, 2], "dog": [3]})
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (root / "train" / name).symlink_to(tmp_path / "far" / "train" / name)
    (root / "train" / "dog" / "again").symlink_to(root / "train")  # no end
    assert shades_of(Source(str(root)), 2, tmp_path / "store") == {0: [1, 2], 1: [3]}
    before = known_by(local_files(root))
    Image.new("L", (4, 4), 9).save(tmp_path / "far" / "train" / "dog" / "0.png")
    assert known_by(local_files(root)) != before, "content behind a link is in the key"
    assert shades_of(Source(str(root)), 2, tmp_path / "store") == {0: [1, 2], 1: [9]}
    whole = tmp_path / "linked"
    whole.symlink_to(root)
    assert shades_of(Source(str(whole)), 2, tmp_path / "store") == {0: [1, 2], 1: [9]}
    (root / "train" / "owl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"owl is a link to nothing"):
        local_files(root)
