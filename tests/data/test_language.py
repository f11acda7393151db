"""Text for language models: windows, packing, cuts by document, tokenizers, and what is refused."""

import json

import pytest
import torch
from conftest_data import shared
from hydra.utils import instantiate
from later import Later
from tiny import composed, plain

from kd_research.data.vocabulary import Vocabulary, encode

datasets = Later("datasets")

IGNORED = -100
END = "<|endoftext|>"
TEXTS = ["The cat sat.", "A dög ran — off!", "日本 is far 🎉.", "Four."] * 5


def module(tmp_path, root, *overrides, name="hub_lm"):
    config = composed(
        f"dataset={name}",
        "teacher=none",
        "loss=ce",
        f"dataset.root={root}",
        f"output_dir={tmp_path / 'out'}",
        *overrides,
    )
    return instantiate(plain(config)["dataset"], seed=0)


def rows_file(tmp_path, split="train", **columns):
    root = tmp_path / "rows"
    root.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns).to_parquet(root / f"{split}-00000-of-00001.parquet")
    return root


BYTES = ("dataset.tokens=byte", "dataset.vocab_size=257", "dataset.context=8")


def test_labels_are_the_next_token_and_every_byte_counts_once(tmp_path):
    text = "".join(chr(97 + at % 26) for at in range(50))
    root = rows_file(tmp_path, text=[text])
    for split in ("validation", "test"):
        rows_file(tmp_path, split, text=[text[::-1]])
    byte = ("dataset.tokens=byte", "dataset.vocab_size=256", "dataset.end_of_text=null")
    data = module(tmp_path, root, *byte, "dataset.context=8")
    whole = data.train.take(torch.arange(len(data.train)))
    labels = whole.labels.flatten()
    assert whole.inputs["input_ids"].dtype == whole.labels.dtype == torch.int64
    assert data.tokenizer.decode(labels[labels != IGNORED].tolist()) == text[1:]
    assert data.tokenizer.decode(whole.inputs["input_ids"].flatten()[:49].tolist()) == text[:-1]
    assert int((labels != IGNORED).sum()) == int(data.train.num_bytes.sum()) == 49
    assert "position_ids" not in whole.inputs  # one document: nothing to keep apart
    assert data.val.labels.shape == (7, 8)


def test_documents_are_packed_and_kept_apart(tmp_path):
    data = module(tmp_path, rows_file(tmp_path, text=TEXTS), *BYTES)
    found, total = [], 0
    for split in (data.train, data.val, data.test):
        every = split.take(torch.arange(len(split)))
        ids, positions = every.inputs["input_ids"], every.inputs["position_ids"]
        assert (positions[:, 0] == 0).all()
        # A position starts a document, or follows the one before it.
        follows = positions[:, 1:] == positions[:, :-1] + 1
        assert (follows | (positions[:, 1:] == 0)).all()
        # What is learnt inside a document is the next position's token.
        inside = (positions[:, 1:] > 0) & (every.labels[:, :-1] != IGNORED)
        assert torch.equal(every.labels[:, :-1][inside], ids[:, 1:][inside])
        end = data.tokenizer.token_to_id(END)
        assert not (ids == end).any()  # nothing follows the end, so it is never read
        found.append(int((every.labels == end).sum()))
        total += int(split.num_bytes.sum())
    assert sum(found) == len(TEXTS)
    # Of each text all bytes but those of its first token, which nothing announces.
    firsts = sum(len(text[0].encode()) for text in TEXTS)
    assert total == sum(len(text.encode()) for text in TEXTS) - firsts


def test_validation_is_cut_by_document_before_packing(tmp_path):
    texts = [f"<{number:03d}> " + "x" * 20 for number in range(40)]
    data = module(tmp_path, rows_file(tmp_path, text=texts), *BYTES, "dataset.val_fraction=0.25")
    seen = {}
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        every = split.take(torch.arange(len(split)))
        labels = every.labels.flatten()
        text = data.tokenizer.decode(labels[labels != IGNORED].tolist(), skip_special_tokens=True)
        seen[name] = {
            text[at + 3 : at + 6] for at in range(-3, len(text)) if text[at + 6 : at + 7] == ">"
        }
        seen[name] = {part for part in seen[name] if part.isdigit()}
    assert [len(seen[name]) for name in ("train", "val", "test")] == [27, 9, 4]
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]


def test_one_text_alone_is_cut_at_its_end(tmp_path):
    root = tmp_path / "plain"
    root.mkdir()
    text = "".join(chr(97 + at % 26) for at in range(1000))
    (root / "input.txt").write_text(text)
    char = ("dataset.tokens=char", "dataset.vocab_size=26", "dataset.end_of_text=null")
    data = module(tmp_path, root, *char, "dataset.context=8")
    assert [int(getattr(data, split).num_bytes.sum()) for split in ("train", "val", "test")] == [
        809, 89, 99,
    ]  # fmt: skip
    last = data.test.take(torch.arange(len(data.test))).labels.flatten()
    assert data.tokenizer.decode(last[last != IGNORED].tolist()) == text[-99:]


def test_lines_are_one_text(tmp_path):
    root = rows_file(tmp_path, text=[" = Title = \n", "", " some words here \n"] * 20)
    byte = ("dataset.tokens=byte", "dataset.vocab_size=256", "dataset.end_of_text=null")
    data = module(tmp_path, root, *byte, "dataset.rows=lines", "dataset.context=16")
    first = data.train.take(torch.tensor([0])).inputs["input_ids"][0]
    assert data.tokenizer.decode(first.tolist()) == " = Title = \n\n so"


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_json_lines_and_plain_text_are_read(tmp_path, suffix):
    root = tmp_path / suffix
    root.mkdir()
    for number, text in enumerate(TEXTS):
        if suffix == "txt":
            (root / f"train-{number:02d}.txt").write_text(text)
    if suffix == "jsonl":
        lines = [json.dumps({"text": text, "number": at}) for at, text in enumerate(TEXTS)]
        (root / "train.jsonl").write_text("\n".join(lines))
    data = module(tmp_path, root, *BYTES)
    ends = sum(
        int((split.labels == data.tokenizer.token_to_id(END)).sum())
        for split in (data.train, data.val, data.test)
    )
    assert ends == len(TEXTS)


def test_only_the_completion_is_learnt_and_pairs_stay_whole(tmp_path):
    asks, answers = [f"q{at}?" for at in range(20)], [f"a{at}!" for at in range(20)]
    root = rows_file(tmp_path, ask=asks, answer=answers)
    data = module(
        tmp_path,
        root,
        *BYTES[:2],
        "dataset.context=20",
        "dataset.prompt='{ask} '",
        "dataset.completion='{answer}'",
        name="instructions",
    )
    every = data.train.take(torch.arange(len(data.train)))
    learnt = every.labels != IGNORED
    text = data.tokenizer.decode(every.labels[learnt].tolist(), skip_special_tokens=False)
    pieces = text.split(END)[:-1]
    assert pieces
    assert set(pieces) <= set(answers)  # whole, and nothing of a prompt
    assert int(data.train.num_bytes.sum()) == sum(map(len, pieces))
    for ids, positions, row in zip(*every.inputs.values(), learnt, strict=True):
        starts = (positions == 0).nonzero().flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], 20], strict=True):
            said = row[start:stop]
            if said.any():
                assert bytes(data.tokenizer.decode(ids[start : start + 1].tolist()), "utf8") == b"q"
                assert not said[0]
    assert torch.isin(data.train.labels[data.train.labels != IGNORED], torch.arange(257)).all()


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_tokenizers_give_the_text_back_and_count_its_bytes(kind):
    size = {"byte": 257, "char": 60, "bpe": 300}[kind]
    tokenizer = Vocabulary(kind, size, END).make(TEXTS)
    assert tokenizer.get_vocab_size() <= size
    for text, (ids, added) in zip(TEXTS, encode(tokenizer, TEXTS), strict=True):
        assert tokenizer.decode(ids.tolist()) == text
        assert added.sum() == len(text.encode())
        assert (added >= 0).all()
    if kind == "byte":
        assert len(ids) == len(text.encode())
    if kind == "char":
        assert len(ids) == len(text)


def test_a_pretrained_tokenizer_from_a_file(tmp_path):
    made = Vocabulary("bpe", 300, END).make(TEXTS)
    made.save(str(tmp_path / "tokenizer.json"))
    again = Vocabulary("pretrained", 300, END, str(tmp_path)).make([])
    assert again.encode(TEXTS[1]).ids == made.encode(TEXTS[1]).ids
    with pytest.raises(ValueError, match=r"no token '</s>' to end a text with; .*endoftext"):
        Vocabulary("pretrained", 300, "</s>", str(tmp_path)).make([])
    size = made.get_vocab_size()
    with pytest.raises(ValueError, match=rf"has {size} ids, .*; type dataset.vocab_size={size}"):
        Vocabulary("pretrained", size - 1, END, str(tmp_path)).make([])


@pytest.mark.parametrize(
    ("columns", "overrides", "message"),
    [
        (
            {"text": ["short"] * 30},
            ("dataset.context=900",),
            "type dataset.context=1[0-9]+ or less",
        ),
        (
            {"text": ["a", "", "b"]},
            (),
            r"1 of the 3 documents .* empty, the first is row 1; .*rows=",
        ),
        (
            {"text": ["a", "b"] * 9},
            ("dataset.end_of_text=null",),
            "no end of text; type dataset.end",
        ),
        ({"text": TEXTS}, ("dataset.vocab_size=256",), "257 ids, .* type dataset.vocab_size=257"),
        ({"text": TEXTS}, ("dataset.tokens=word",), "must be one of byte, char, bpe, pretrained"),
        ({"text": TEXTS}, ("dataset.rows=line",), "must be documents or lines, got 'line'"),
        ({"text": TEXTS}, ("dataset.context=0",), "context must be a whole number >= 1, got 0"),
        (
            {"text": TEXTS},
            ("dataset.val_fraction=1.5",),
            "val_fraction must be above 0 and below 1",
        ),
        ({"a": TEXTS, "b": TEXTS}, (), "2 columns could be the text; there are a, b; type dataset"),
        ({"a": TEXTS}, ("dataset.input_column=text",), "no text column 'text'; there are a"),
    ],
)
def test_what_is_wrong_with_a_text_is_told(tmp_path, columns, overrides, message):
    with pytest.raises(Exception, match=message):
        module(tmp_path, rows_file(tmp_path, **columns), *BYTES, *overrides)


def test_characters_that_training_has_not_are_told(tmp_path):
    root = rows_file(tmp_path, text=["abcabcabc" * 3])
    rows_file(tmp_path, "validation", text=["abzabz" * 3])
    with pytest.raises(Exception, match="1 characters that the training part has not: 'z'; type"):
        module(
            tmp_path,
            root,
            "dataset.tokens=char",
            "dataset.context=4",
            "dataset.end_of_text=null",
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("dataset.prompt='{question}'",), "names question; there are ask, answer"),
        (("dataset.prompt='Say: '",), "names no column"),
        (("dataset.prompt='{ask'",), "is no template"),
        (
            ("dataset.context=4",),
            r"18 of 18 prompts .* leave no room in dataset.context=4, .* 6 tok",
        ),
        (("dataset.context=5",), r"leave no room in dataset.context=5"),
        (("dataset.long_prompts=cut",), "must be refuse or leave_out, got 'cut'"),
    ],
)
def test_what_is_wrong_with_instructions_is_told(tmp_path, overrides, message):
    root = rows_file(tmp_path, ask=["what?"] * 20, answer=["that"] * 20)
    rows_file(tmp_path, "test", ask=["what?"] * 2, answer=["that"] * 2)
    template = ("dataset.prompt='{ask} '", "dataset.completion='{answer}'")
    refuse = ("dataset.long_prompts=refuse", "dataset.context=16")
    with pytest.raises(Exception, match=message):
        module(tmp_path, root, *BYTES[:2], *refuse, *template, *overrides, name="instructions")


def test_a_share_of_the_windows(tmp_path):
    root = rows_file(tmp_path, text=TEXTS)
    data = module(tmp_path, root, *BYTES, "dataset.subset=10")
    assert len(data.train) == 10 == len(data.train.num_bytes)
    assert data.fingerprint() != module(tmp_path, root, *BYTES).fingerprint()


def test_tiny_shakespeare_is_the_published_text(tmp_path):
    data = module(tmp_path, shared("tinyshakespeare"), name="tinyshakespeare")
    assert [len(getattr(data, split)) for split in ("train", "val", "test")] == [15686, 872, 872]
    assert int(data.train.num_bytes.sum()) == 1_003_853
    assert data.tokenizer.get_vocab_size() == 65
    first = data.train.take(torch.tensor([0]))
    assert data.tokenizer.decode(first.inputs["input_ids"][0].tolist()).startswith("First Citizen:")
    assert int(data.train.labels.max()) == 64
