"""From files to arrays: exact pixels, once per machine, and what each bad input is told."""

import logging
import multiprocessing
import re
import time

import numpy as np
import pytest
import torch
from conftest_data import pictures, shared, write_parquet
from later import Later
from PIL import Image

from kd_research.data import decode, hub, sources, store
from kd_research.data.hub import Source
from kd_research.data.text import Tokens

datasets = Later("datasets")

SHAPE = [3, 6, 8]


def read(root, tmp_path, shape=SHAPE, classes=3, resize=False, **names):
    source = Source(root=str(root), **names)
    return sources.images(source, shape, classes, resize, tmp_path / "store")


def test_pixels_labels_and_names_are_those_of_the_files(parquet, tmp_path):
    splits = read(parquet, tmp_path)
    assert np.array_equal(splits.train.inputs.permute(0, 2, 3, 1), pictures(30))
    assert np.array_equal(splits.test.inputs.permute(0, 2, 3, 1), pictures(9, seed=1))
    assert splits.train.labels.tolist() == [i % 3 for i in range(30)]
    assert splits.class_names == ["cat", "dog", "emu"]
    assert splits.val is None
    pixels = pictures(30).reshape(-1, 3) / 255
    np.testing.assert_allclose(splits.mean, pixels.mean(0))
    np.testing.assert_allclose(splits.std, pixels.std(0))


def test_a_second_reader_decodes_nothing(parquet, tmp_path, monkeypatch):
    first = read(parquet, tmp_path)
    monkeypatch.setattr(decode, "open_splits", lambda *_: pytest.fail("decoded twice"))
    assert read(parquet, tmp_path).content == first.content


def test_other_content_is_another_store(parquet, tmp_path):
    before = read(parquet, tmp_path).content
    write_parquet(parquet, "train", pictures(30, seed=9), [i % 3 for i in range(30)])
    after = read(parquet, tmp_path)
    assert after.content != before
    assert np.array_equal(after.train.inputs.permute(0, 2, 3, 1), pictures(30, seed=9))


def test_image_folders_read_as_parquet_does(parquet, tmp_path):
    root = tmp_path / "folder"
    for split, images in (("train", pictures(30)), ("test", pictures(9, seed=1))):
        for at, image in enumerate(images):
            folder = root / split / ("cat", "dog", "emu")[at % 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{at:03}.png")
    splits = read(root, tmp_path)
    assert splits.class_names == ["cat", "dog", "emu"]
    expected = pictures(30)[[at for label in range(3) for at in range(label, 30, 3)]]
    assert np.array_equal(splits.train.inputs.permute(0, 2, 3, 1), expected)


def test_grey_and_resized(parquet, tmp_path):
    assert read(parquet, tmp_path, shape=[1, 6, 8]).train.inputs.shape == (30, 1, 6, 8)
    assert read(parquet, tmp_path, shape=[3, 4, 4], resize=True).train.inputs.shape[1:] == (3, 4, 4)


def _slow_reader(root, folder, results):
    logging.disable()
    real = decode.open_splits

    def count(*arguments):
        results.put("decoded")
        time.sleep(0.5)
        return real(*arguments)

    decode.open_splits = count
    results.put(read(root, folder).content)


def test_a_second_process_waits_for_the_first(parquet, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    readers = [
        context.Process(target=_slow_reader, args=(parquet, tmp_path, results)) for _ in "ab"
    ]
    for reader in readers:
        reader.start()
    found = sorted(results.get(timeout=600) for _ in range(3))
    for reader in readers:
        reader.join()
    assert found.count("decoded") == 1
    assert len(set(found)) == 2


def test_what_a_killed_process_left_is_not_read(parquet, tmp_path):
    content = read(parquet, tmp_path).content
    (folder,) = (path for path in (tmp_path / "store").iterdir() if path.is_dir())
    (folder / store.META_NAME).unlink()  # written last: the folder is not whole
    (folder / "train-inputs.npy").write_bytes(b"half")
    half = folder.with_name(f".{folder.name}.killed")
    half.mkdir()
    assert read(parquet, tmp_path).content == content
    assert not half.exists()


@pytest.mark.parametrize("left", ['{"kind": "ima', "{}", "[1]", None])
def test_a_damaged_or_foreign_meta_is_as_none(left, parquet, tmp_path):
    content = read(parquet, tmp_path).content
    (meta,) = (tmp_path / "store").glob(f"*/{store.META_NAME}")
    meta.write_bytes(b"\xff") if left is None else meta.write_text(left)
    assert read(parquet, tmp_path).content == content


def test_a_damaged_array_is_told(parquet, tmp_path):
    read(parquet, tmp_path)
    (array,) = (tmp_path / "store").glob("*/train-inputs.npy")
    array.write_bytes(array.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged .* it is made anew"):
        read(parquet, tmp_path)


@pytest.mark.parametrize("name", ["train-inputs.npy", "test-labels.npy"])
def test_a_flipped_bit_in_a_decoded_set_is_told(name, parquet, tmp_path):
    read(parquet, tmp_path)
    (array,) = (tmp_path / "store").glob(f"*/{name}")
    content = bytearray(array.read_bytes())
    content[-8] ^= 1
    array.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged .its content is not what was"):
        read(parquet, tmp_path)


def test_a_full_disk_leaves_nothing(parquet, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="the disk is full while decoding .* output_dir="):
        read(parquet, tmp_path)
    assert not [path for path in (tmp_path / "store").iterdir() if path.is_dir()]


def test_a_disk_that_is_full_before_anything_is_decoded_is_told(parquet, tmp_path, monkeypatch):
    def full(*_, **__):
        raise datasets.exceptions.DatasetGenerationError("x") from OSError(28, "No space left")

    monkeypatch.setattr("datasets.load_dataset", full)
    with pytest.raises(OSError, match="the disk is full while decoding .* output_dir="):
        read(parquet, tmp_path)
    with pytest.raises(OSError, match="the disk is full while .* is unpacked into .* output_dir="):
        hub.open_splits(Source(root=str(parquet)), tmp_path)


def bad_labels(root):
    table = datasets.Dataset.from_dict(
        {"img": [Image.fromarray(image) for image in pictures(4)], "label": [0, 1, 2, -1]},
        features=datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")}),
    )
    table.to_parquet(root / "train-00000.parquet")


def broken_image(root):
    cell = {"bytes": b"no image", "path": None}
    table = datasets.Dataset.from_dict(
        {"img": [cell] * 3, "label": [0, 1, 2]},
        features=datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
        ),
    )
    table.to_parquet(root / "train-00000.parquet")


def mixed_sizes(root):
    images = [*pictures(5), *pictures(3, size=(4, 4))]
    write_parquet(root, "train", images, [0, 1, 2, 0, 1, 2, 0, 1])


def other_columns(root):
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    table.to_parquet(root / "test-00000-of-00001.parquet")


def broken_file(root):
    (root / "test-00000-of-00001.parquet").write_bytes(b"PAR1 half")


def two_labels(root):
    (root / "test-00000-of-00001.parquet").unlink()
    write_parquet(root, "train", pictures(3), [0, 1, 2], coarse=[0, 1, 0])


def no_images(root):
    table = datasets.Dataset.from_dict({"length": [1.0, 2.0], "label": [0, 1]})
    table.to_parquet(root / "train-00000.parquet")


def empty_split(root):
    write_parquet(root, "test", pictures(0), [])


def class_without_examples(root):
    write_parquet(root, "train", pictures(4), [0, 1, 0, 1])


BAD = [
    (bad_labels, {}, "labels outside 0 to 2: {-1: 1} (value: count)"),
    (
        broken_image,
        {},
        "3 of the 3 images of the split 'train' cannot be read: example 0: its content is no image",
    ),
    (mixed_sizes, {}, "5 have that size, the others are 4x4 (3 images); type dataset.resize=true"),
    (other_columns, {}, "every split needs rows, the same columns and whole files"),
    (broken_file, {}, "cannot be read as one data set"),
    (two_labels, {}, "2 columns could be the label; there are"),
    (two_labels, {"label_column": "fine"}, "no column 'fine'; there are"),
    (no_images, {}, "no input; there are length (float64), label (int64)"),
    (empty_split, {}, "++dataset.splits.NAME=null leaves one out"),
    (class_without_examples, {}, "no training example of class emu"),
]


@pytest.mark.parametrize(("spoil", "names", "message"), BAD)
def test_bad_files_are_told(spoil, names, message, parquet, tmp_path):
    spoil(parquet)
    if (parquet / "train-00000.parquet").exists():  # instead of the good files
        for file in parquet.glob("*-of-*"):
            file.unlink()
    with pytest.raises(ValueError, match=re.escape(message)):
        read(parquet, tmp_path, **names)


def test_a_split_can_be_left_out(parquet, tmp_path):
    empty_split(parquet)
    assert read(parquet, tmp_path, splits={"test": None}).test is None


def test_bad_settings_are_told(parquet, tmp_path):
    with pytest.raises(ValueError, match=r"has 3 classes \(cat, dog, emu\).*dataset.num_classes=3"):
        read(parquet, tmp_path, classes=10)
    with pytest.raises(ValueError, match=r"resize=true .*or dataset.input_shape=\[3,6,8\]"):
        read(parquet, tmp_path, shape=[3, 32, 32])
    with pytest.raises(ValueError, match=r"'holdout', it has .*type \+\+dataset.splits.test=NAME"):
        read(parquet, tmp_path, splits={"test": "holdout"})
    with pytest.raises(
        FileNotFoundError, match="is not a folder, nor a file of .* type dataset.root="
    ):
        read(tmp_path / "nowhere", tmp_path)
    (tmp_path / "odd").mkdir()
    for name in ("data.csv", "more.csv"):
        (tmp_path / "odd" / name).write_text("x")
    with pytest.raises(FileNotFoundError, match=r"found \['data.csv', 'more.csv'\]; expected tr"):
        read(tmp_path / "odd", tmp_path)
    with pytest.raises(ValueError, match="needs dataset.root=FOLDER or dataset.path=HUB_NAME"):
        hub.open_splits(Source(), tmp_path)


@pytest.mark.parametrize("theirs", ["validation", "valid"])
def test_a_published_validation_split_can_be_the_test_split(theirs, parquet, tmp_path):
    """As in ImageNet, whose test labels nobody has, also where it lies in local files."""
    (parquet / "test-00000-of-00001.parquet").rename(parquet / "val-0.parquet")
    splits = read(parquet, tmp_path, splits={"validation": None, "test": theirs})
    assert splits.val is None
    assert len(splits.test) == 9


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"validation": "test"}, "'test' of .* would be both validation and test; type "),
        ({"test": "valid"}, "'validation' of .* would be both validation and test"),
        ({"train": "test", "validation": None}, "'test' of .* would be both train and test"),
        ({"foo": "train", "val": "test"}, "dataset.splits has foo, val; its keys are our names"),
    ],
)
def test_no_split_is_two_of_ours(splits, message, parquet, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(parquet, tmp_path, splits=splits)
    swapped = read(parquet, tmp_path, splits={"train": "test", "test": "train"})
    assert (len(swapped.train), len(swapped.test)) == (9, 30)


def sentences(root, words=("good film", "bad film", "", "good good")):
    root.mkdir(exist_ok=True)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    for split, texts in (("train", words), ("test", ["a good unknown film"])):
        rows = {"text": list(texts), "label": [i % 2 for i in range(len(texts))]}
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(root / f"{split}-0.parquet")
    return Source(root=str(root))


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_text_is_padded_and_no_row_is_empty(kind, tmp_path):
    source = sentences(tmp_path / "text")
    splits = sources.text(source, 2, Tokens(kind, 300, 8), tmp_path / "store")
    ids, mask = splits.train.inputs["input_ids"], splits.train.inputs["attention_mask"]
    assert mask.sum(1).min() == 1
    assert ((ids == 0) == (mask == 0)).all()
    assert ids.max() < 300
    if kind == "word":
        assert mask.sum(1).tolist() == [2, 2, 1, 2]
        assert ids[0, 1] == ids[1, 1]  # film
        unknown = ids[2, 0]
        test = splits.test.inputs["input_ids"][0]
        assert (test == unknown).tolist() == [True, False, True, False]
    one = splits.train.take(torch.tensor([2]))
    assert one.inputs["input_ids"].shape == (1, 1)  # padding is that of the batch


def test_text_that_does_not_fit_is_told(tmp_path):
    source = sentences(tmp_path / "text")
    with pytest.raises(ValueError, match="has text in column 'text'.*dataset=hub_text"):
        sources.images(source, SHAPE, 2, False, tmp_path / "store")
    saved = tmp_path / "tokenizer.json"
    (meta,) = [decode.decoded(source, 2, tmp_path / "store", tokens=Tokens("word", 300, 8))]
    saved.write_bytes((meta / "tokenizer.json").read_bytes())
    tokens = Tokens("pretrained", 3, 8, str(saved))
    with pytest.raises(ValueError, match=r"the tokenizer has 5 ids.*dataset.vocab_size=5"):
        sources.text(source, 2, tokens, tmp_path / "store")
    again = sources.text(source, 2, Tokens("pretrained", 5, 8, str(saved)), tmp_path / "store")
    expected = sources.text(source, 2, Tokens("word", 300, 8), tmp_path / "store")
    assert torch.equal(again.train.inputs["input_ids"], expected.train.inputs["input_ids"])
    with pytest.raises(ValueError, match="dataset.tokens must be word, bpe or pretrained"):
        Tokens("char")
    with pytest.raises(ValueError, match="dataset.tokens=pretrained dataset.pretrained=NAME"):
        Tokens("pretrained")


def test_images_under_a_configuration_of_text_are_told(parquet, tmp_path):
    with pytest.raises(ValueError, match="has images in column 'img'.*type dataset=hub,"):
        sources.text(Source(root=str(parquet)), 3, Tokens(), tmp_path / "store")


def test_another_tokenizer_at_the_same_place_is_another_store(tmp_path):
    source, place = sentences(tmp_path / "text"), tmp_path / "tokenizer.json"

    def first_sentence(kind):
        folder = decode.decoded(source, 2, tmp_path / "store", tokens=Tokens(kind, 300, 8))
        place.write_bytes((folder / "tokenizer.json").read_bytes())
        tokens = Tokens("pretrained", 300, 8, str(tmp_path))
        return sources.text(source, 2, tokens, tmp_path / "store").train.inputs["input_ids"][0]

    words, pieces = first_sentence("word"), first_sentence("bpe")
    assert words.tolist() != pieces.tolist()


def test_the_real_sst2(tmp_path):
    source = Source(root=str(shared("sst2")))
    splits = sources.text(source, 2, Tokens("word", 12000, 64), tmp_path)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [6920, 872, 1821]
    assert splits.class_names == ["negative", "positive"]


def test_the_real_cifar10_test_images(tmp_path):
    folder = tmp_path / "cifar"
    folder.mkdir()
    (file,) = shared("cifar10").glob("test-*.parquet")
    (folder / "train-0.parquet").symlink_to(file)
    splits = sources.images(Source(root=str(folder)), [3, 32, 32], 10, False, tmp_path)
    assert len(splits.train) == 10_000
    assert splits.train.labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog
    assert splits.class_names[3] == "cat"
