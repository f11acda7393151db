"""Labels as words of a text: one pair a window, and which of the words is likeliest."""

from __future__ import annotations

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from later import Later
from positions_data import TokenNet
from tiny import Compose, plain

from kd_research.data.module import DataModule
from kd_research.evaluation.choices import Choices
from kd_research.evaluation.positions import evaluate_positions

datasets = Later("datasets")

IGNORED = -100


@pytest.fixture
def make(tiny: Compose, tmp_path):  # type: ignore[no-untyped-def]
    rows = [(f"film {at} is {'fine fun' if at % 2 else 'a bore'}", at % 2) for at in range(40)]
    table = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "train-00000-of-00001.parquet")

    def made(*overrides: str, words: str = "{label: [bad, good]}") -> DataModule:
        config = tiny(
            "dataset=instructions",
            f"dataset.root={tmp_path}",
            f"output_dir={tmp_path / 'out'}",
            "dataset.prompt='{sentence} :'",
            "dataset.completion=' {label}'",
            f"dataset.words={words}",
            "dataset.vocab_size=300",
            "dataset.context=32",
            *overrides,
        )
        data: DataModule = instantiate(plain(config)["dataset"], seed=0)
        return data

    return made


def test_a_pair_a_window_says_a_word_and_nothing_of_other_pairs(make) -> None:  # type: ignore[no-untyped-def]
    data = make("dataset.pack=false")
    assert (len(data.train), len(data.val), len(data.test)) == (32, 4, 4)
    whole = data.train.take(torch.arange(len(data.train)))
    assert "position_ids" not in whole.inputs
    learnt = [row[row != IGNORED].tolist() for row in whole.labels]
    end = data.tokenizer.token_to_id("<|endoftext|>")
    assert {tuple(row) for row in learnt} == {(word, end) for word in data.choices}
    assert [data.tokenizer.decode([word]) for word in data.choices] == [" bad", " good"]
    packed = make()
    assert len(packed.train) < 32
    assert "position_ids" in packed.train.inputs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("{label: [bad]}", r"dataset.words must be \{COLUMN"),
        ("{label: [bad, not really quite so]}", "no single tokens"),
        ("{mood: [bad, good]}", "dataset.words names mood; there are sentence, label"),
        ("{label: [bad, good], sentence: [a, b]}", "dataset.words.sentence has 2 words"),
    ],
)
def test_words_that_cannot_be_are_told(make, words: str, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InstantiationException, match=told):
        make("dataset.pack=false", "dataset.vocab_size=290", words=words)


def test_only_the_words_are_compared() -> None:
    logits = torch.tensor([[9.0, 1.0, 0.0, 2.0], [9.0, 3.0, 0.0, 2.0], [0.0, 0.0, 9.0, 0.0]])
    teacher = torch.tensor([[0.0, 2.0, 9.0, 1.0], [0.0, 5.0, 9.0, 1.0], [0.0, 0.0, 9.0, 0.0]])
    choices = Choices((1, 3))
    choices.add(logits, teacher, torch.tensor([3, 3, 2]))
    found = choices.metrics("val", True)
    assert found["val_choice_accuracy"] == 0.5
    assert found["teacher_val_choice_accuracy"] == 0.0
    assert found["choice_agreement"] == 0.5
    kl = torch.nn.functional.kl_div(
        logits[:2][:, [1, 3]].log_softmax(1),
        teacher[:2][:, [1, 3]].log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )
    assert found["choice_kl"] == pytest.approx(float(kl), rel=1e-5)


def test_a_split_is_measured_by_its_words(make) -> None:  # type: ignore[no-untyped-def]
    data = make("dataset.pack=false")
    torch.manual_seed(0)
    student = TokenNet(8, data.num_classes)
    found = evaluate_positions(student, None, data).metrics
    bad, good = data.choices
    logits = student(data.test.take(torch.arange(4)).inputs["input_ids"])
    labels = data.test.labels.long()
    at = torch.isin(labels, torch.tensor(data.choices))
    right = (logits[at][:, good] > logits[at][:, bad]) == (labels[at] == good)
    assert found["test_choice_accuracy"] == pytest.approx(float(right.float().mean()))
    assert found["choice_agreement"] is None
