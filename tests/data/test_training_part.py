"""What is made of the data, as words, categories and numbers, is of the training part alone."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
from conftest_data import pictures, write_parquet
from hydra.utils import instantiate
from tiny import composed, plain
from tokenizers import Tokenizer

NUM = 40


def make(dataset, root, *overrides):
    config = plain(
        composed(f"dataset={dataset}", f"dataset.root={root}", f"output_dir={root}.out", *overrides)
    )
    return instantiate(config["dataset"], seed=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_words_that_validation_or_test_alone_has_are_unknown(kind, seed, tmp_path):
    """A vocabulary made before the cut knows the words of the sentences that are held out."""
    letters = [chr(0x4E00 + at) for at in range(NUM)]  # one of its own for each sentence
    rows = {"text": letters, "label": [at % 2 for at in range(NUM)]}
    pandas.DataFrame(rows).to_csv(tmp_path / "all.csv", index=False)
    data = make(
        "hub_text",
        tmp_path / "all.csv",
        "dataset.num_classes=2",
        f"dataset.tokens={kind}",
        "dataset.vocab_size=300",
        f"dataset.split_seed={seed}",
    )
    folder = next(path.parent for path in tmp_path.rglob("tokenizer.json"))
    known = Tokenizer.from_file(str(folder / "tokenizer.json"))
    trained = {letters[row] for row in data.train.rows.tolist()}
    held_out = set(letters) - trained
    assert len(held_out) > 4
    unknown = known.token_to_id("[UNK]")
    assert all(unknown not in known.encode(letter).ids for letter in trained)
    assert all(unknown in known.encode(letter).ids for letter in held_out)


def test_a_category_that_validation_or_test_alone_has_is_no_column(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"only{at}" for at in range(NUM)]
    frame = pandas.DataFrame(
        {"size": rng.normal(size=NUM), "name": names, "kind": [at % 2 for at in range(NUM)]}
    )
    frame.to_csv(tmp_path / "all.csv", index=False)
    given = ["dataset.label_column=kind", "dataset.num_classes=2"]
    left = 28  # 8 of 40 are test, 4 of the other 32 validation
    data = make("table", tmp_path / "all.csv", f"dataset.input_shape=[{left + 1}]", *given)
    assert len(data.train) == left
    for split, num in ((data.train, 1), (data.val, 0), (data.test, 0)):
        assert (split.inputs[split.rows][:, 1:].sum(1) == num).all()


def test_training_sentences_that_are_all_equal_are_refused(tmp_path):
    rows = {"text": ["nothing said"] * 30, "label": [at % 2 for at in range(30)]}
    pandas.DataFrame(rows).to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(Exception, match=r"the first \d+ training examples of 'hub_text' are equal"):
        make("hub_text", tmp_path / "all.csv", "dataset.num_classes=2")


def test_streamed_images_that_are_all_equal_are_refused(tmp_path):
    pictures_of_nothing = np.repeat(pictures(1), 30, axis=0)
    write_parquet(tmp_path / "set", "train", pictures_of_nothing, [at % 3 for at in range(30)])
    given = ["dataset.input_shape=[3,6,8]", "dataset.num_classes=3", "dataset.stream_workers=1"]
    moments = ["dataset.mean=[0.5]", "dataset.std=[0.2]"]
    with pytest.raises(Exception, match=r"training examples of 'hub' are equal"):
        make("hub", tmp_path / "set", *given, *moments)
