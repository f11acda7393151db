"""What texts are scored by, and the numbers of a run whose data have prompts with completions."""

import json
import math
from decimal import Decimal
from functools import partial

import pytest
import torch
from language_folder import language_run
from tiny import composed, plain

from kd_research.configuration.config import ConfigError, check, check_sweep, load
from kd_research.data.prompts import Pair, pairs_of
from kd_research.evaluation import texts
from kd_research.evaluation.generation import sample_texts
from kd_research.evaluation.texts import (
    Texts,
    chosen,
    exact_match,
    gsm8k_answer,
    rouge_l,
    scored,
    surprise,
)
from kd_research.export import _worth_of_int8
from kd_research.export.cached_form import to_cached_onnx
from kd_research.export.text_forms import TextExport
from kd_research.models.gpt import GPT
from kd_research.records.record import read_record
from kd_research.teacher.checkpoint import load_weights
from kd_research.trial.assembly import Parts
from kd_research.trial.known_once import of_teacher
from kd_research.trial.language_run import open_language_run

ROWS = [
    {"ask": f"{one}+{two}=", "answer": f"{one + two}\n#### {one + two}"}
    for one in range(10)
    for two in range(6)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instructions")
    (folder / "texts").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "texts" / "train.jsonl").write_text(lines)
    return language_run(
        folder,
        "dataset.prompt='{ask}'",
        "dataset.completion='{answer}'",
        "dataset.tokens=char",
        "dataset.vocab_size=16",
        "dataset.context=24",
        "dataset.val_fraction=0.3",
        "dataset.subset=null",
        "text_evaluation.num_prompts=12",
        "text_evaluation.temperature=1",
        "text_evaluation.max_new_tokens=14",
        dataset="instructions",
    )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 6*7 = <<6*7=42>>42.\n#### 42", "42"),
        ("#### 1,234,567", "1234567"),
        ("#### -5", "-5"),
        ("####−5 apples", "-5"),
        ("#### +7.50.", "7.5"),
        ("#### $18", "18"),
        ("#### -$18", "-18"),
        ("#### 3 and then #### 4", "3"),
        ("42", None),
        ("#### forty-two", None),
    ],
)
def test_the_final_answer_of_gsm8k(text, answer):
    assert gsm8k_answer(text) == (None if answer is None else Decimal(answer))


def test_rouge_l_is_of_the_longest_common_subsequence_of_stems():
    assert rouge_l("the dogs were running", "The dog was running.") == pytest.approx(3 / 4)
    # 2 of 3 words of the text, 2 of 5 of the reference
    precision, recall = 2 / 3, 2 / 5
    expected = 2 * precision * recall / (precision + recall)
    assert rouge_l("a c e", "a b d e f") == pytest.approx(expected)
    assert rouge_l("", "a") == 0
    assert exact_match(" a b\n", "a b")
    assert not exact_match("a  b", "a b")


def test_references_without_an_answer_do_not_count():
    found = scored(["#### 1", "#### 2", "none"], ["#### 1", "so", "#### 2"])
    assert found["gsm8k_accuracy"].nan_to_num(-1).tolist() == [1, -1, 0]
    assert scored(["#### 1"], ["so"])["gsm8k_accuracy"] is None


def test_prompts_and_completions_are_those_of_the_data(run):
    opened = open_language_run(run)
    known = {row["ask"]: row["answer"] for row in ROWS}
    seen = []
    for split in (opened.data.train, opened.data.val, opened.data.test):
        for prompt, completion in pairs_of(split):
            ask = opened.tokens.tokenizer.decode(prompt)
            assert opened.tokens.tokenizer.decode(completion) == known[ask]
            assert completion[-1] == opened.tokens.stop
            seen.append(ask)
    assert sorted(seen) == sorted(known)
    few, left_out = chosen(opened.data.val, 3, longest=4)
    assert few == list(pairs_of(opened.data.val))[:3]
    assert left_out == 0
    assert chosen(opened.data.val, None, longest=3) == ([], len(list(pairs_of(opened.data.val))))


def test_the_record_has_what_the_texts_are_worth(run):
    opened, metrics = open_language_run(run), read_record(run).metrics
    details = json.loads((run / "evaluation.json").read_text())
    for name, split in (("val", opened.data.val), ("test", opened.data.test)):
        pairs, _ = chosen(split, 12, 24)
        assert details[name]["texts"] == {
            "num_prompts": len(pairs),
            "left_out": 0,
            "cut": 0,
            "max_new_tokens": 14,
        }
        for key in ("rouge_l", "exact_match", "gsm8k_accuracy"):
            assert 0 <= metrics[f"{name}_{key}"] <= 1
            assert 0 <= metrics[f"teacher_{name}_{key}"] <= 1
            low, high = details[name]["intervals"][key]
            assert low <= metrics[f"{name}_{key}"] <= high
        low, high = details[name]["intervals"]["text_perplexity"]
        assert 1 < low <= metrics[f"{name}_text_perplexity"] <= high


def test_a_teacher_writes_once_for_all_runs(run, monkeypatch):
    parts, metrics = Parts(plain(load(run / "config.yaml"))), read_record(run).metrics
    writers, write = [], texts.write

    def noted(model, *given):
        writers.append(model)
        return write(model, *given)

    monkeypatch.setattr(texts, "write", noted)
    found = parts.evaluate().metrics
    assert writers == [parts.student] * 2  # validation and test
    for name in ("val_rouge_l", "test_exact_match", "val_gsm8k_accuracy"):
        assert found[f"teacher_{name}"] == metrics[f"teacher_{name}"]
    samples = json.loads((run / "samples.json").read_text())["samples"]
    assert all(sample["teacher"] for sample in samples)
    known = partial(of_teacher, parts.config, parts.teacher, parts.data)
    given = (parts.data, parts.config["seed"], known)
    monkeypatch.setattr(parts.writer, "forward", lambda *_, **__: pytest.fail("it writes again"))
    again = sample_texts(parts.student, parts.writer, *given)
    assert [sample["teacher"] for sample in again] == [sample["teacher"] for sample in samples]
    monkeypatch.undo()
    monkeypatch.setattr(texts, "write", noted)
    parts.config["seed"] += 1  # other draws
    parts.evaluate()
    assert writers[2:] == [parts.student, parts.writer] * 2


@torch.no_grad()
def test_the_surprise_of_padded_texts_is_that_of_each_alone():
    torch.manual_seed(0)
    model = GPT(11, context=12, depth=1, width=8, heads=2)
    torch.nn.init.normal_(model.embedding.weight)
    pairs = [Pair([1, 2, 3], []), Pair([4], []), Pair([5, 6, 7, 8], [])]
    written = Texts([[1, 2], [3, 4, 5], [6]], [""] * 3)
    nats, tokens = surprise(model, pairs, written)
    assert tokens.tolist() == [2, 3, 1]
    for pair, text, found in zip(pairs, written.ids, nats.tolist(), strict=True):
        whole = torch.tensor([pair.prompt + text])
        chances = model(whole[:, :-1]).log_softmax(2)[0]
        start = len(pair.prompt)
        expected = -sum(chances[start + at - 1, token] for at, token in enumerate(text))
        assert found == pytest.approx(float(expected), rel=1e-5)
    assert math.isfinite(float(nats.sum()))


def test_without_being_asked_nothing_is_measured(tmp_path):
    metrics = read_record(language_run(tmp_path, "read_test=false")).metrics
    for name in ("rouge_l", "exact_match", "gsm8k_accuracy", "text_perplexity"):
        assert metrics[f"val_{name}"] is None
        assert f"test_{name}" not in metrics


def test_data_without_prompts_are_told_before_a_teacher_is_trained(tmp_path):
    with pytest.raises(AssertionError, match="tinyshakespeare has no prompts with completions"):
        language_run(tmp_path, "text_evaluation.num_prompts=4")
    assert not (tmp_path / "outputs" / "teachers").exists()


def test_wrong_settings_are_told_at_once():
    config = composed(
        "dataset=instructions",
        "text_evaluation.num_prompts=-1",
        "text_evaluation.max_new_tokens=600",
        "text_evaluation.temperature=-1",
        "text_evaluation.top_k=0",
        "text_evaluation.top_p=2",
    )
    with pytest.raises(ConfigError) as error:
        check(config)
    told = [line for line in error.value.problems if line.startswith("text_evaluation")]
    keys = ["num_prompts", "temperature", "top_k", "top_p", "max_new_tokens"]
    assert [line.split()[0].split("=")[0] for line in told] == [
        f"text_evaluation.{k}" for k in keys
    ]


def test_a_sweep_cannot_ask_for_texts_that_are_not_written():
    asked = "+sweep.objectives.val_rouge_l=maximize"
    with pytest.raises(ConfigError, match="type text_evaluation.num_prompts=100"):
        check_sweep(composed(asked))
    check_sweep(composed(asked, "text_evaluation.num_prompts=100"))


def test_a_file_with_a_cache_is_worth_what_the_record_says(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    pytest.importorskip("onnxscript", reason="the extra export is not installed")
    parts, record = Parts(plain(load(run / "config.yaml"))), read_record(run).metrics
    load_weights(parts.student, run / "weights.pt")
    student = parts.student.eval()
    assert to_cached_onnx(student, tmp_path / "decoder.int8.onnx") is None
    written = TextExport({}, {}, {}, {"int8_cache": 1}, {})
    found = _worth_of_int8(parts, student, written, tmp_path).metrics
    for name in ("val_rouge_l", "test_rouge_l", "val_gsm8k_accuracy", "test_text_perplexity"):
        assert found[f"int8_cache_{name}"] == pytest.approx(record[name], rel=1e-4)
    assert found["int8_test_nll"] == pytest.approx(record["test_nll"], rel=1e-4)
