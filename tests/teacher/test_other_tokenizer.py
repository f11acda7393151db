"""A teacher with another tokenizer: the same bytes, its own tokens, and where the two meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Compose, plain
from tokenizers import Tokenizer
from torch import Tensor, nn

from kd_research.configuration.config import ConfigError, check
from kd_research.data.token_bytes import read_again, token_bytes
from kd_research.data.vocabulary import Vocabulary, encode
from kd_research.interfaces import Batch, Output
from kd_research.losses.sorted_probabilities import UniversalLogit
from kd_research.teacher.other_tokenizer import ReadsText
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

TEXT = "the cat sat; the théâtre sat on the mat. " * 8


def made(kind: str, size: int = 300) -> Tokenizer:
    return Vocabulary(kind, size, "<|end|>").make([TEXT])


def wordpiece() -> Tokenizer:
    from tokenizers import decoders, models

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def sentencepiece() -> Tokenizer:
    from tokenizers import SentencePieceBPETokenizer

    tokenizer = SentencePieceBPETokenizer()
    tokenizer.train_from_iterator([TEXT], vocab_size=60, show_progress=False)
    return Tokenizer.from_str(tokenizer.to_str())


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "sentencepiece"])
def test_the_bytes_of_a_text_s_tokens_are_the_text(kind: str) -> None:
    tokenizer = sentencepiece() if kind == "sentencepiece" else made(kind)
    table = token_bytes(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert b"".join(table[each] for each in ids).lstrip() == TEXT.encode()
    if kind != "sentencepiece":
        end = tokenizer.token_to_id("<|end|>")
        assert table[end] == b""


def test_a_tokenizer_that_hides_its_bytes_is_told() -> None:
    with pytest.raises(ValueError, match="the decoder WordPiece does not say which bytes"):
        token_bytes(wordpiece())


@pytest.mark.parametrize(("kind", "other"), [("char", "bpe"), ("bpe", "char"), ("byte", "bpe")])
def test_places_are_where_both_have_read_the_same_bytes(kind: str, other: str) -> None:
    """By brute force: the prefixes of the text that both tokenizations end at."""
    mine, theirs = made(kind), made(other, 270)
    table, text = token_bytes(mine), TEXT[:60]
    ids = mine.encode(text, add_special_tokens=False).ids
    found, places = read_again([table[each] for each in ids], theirs)
    assert found == theirs.encode(text, add_special_tokens=False).ids
    ((_, added),) = encode(theirs, [text])
    ends = {int(added[: place + 1].sum()): place for place in range(len(found))}
    read = 0
    for each, place in zip(ids, places.tolist(), strict=True):
        read += len(table[each])
        assert place == ends.get(read, -1)
    assert 0 < (places >= 0).sum() <= min(len(ids), len(found))


def test_characters_that_are_cut_are_left_out() -> None:
    pieces = [bytes([each]) for each in "éat é".encode()][1:-1]  # begins and ends within an é
    found, places = read_again(pieces, made("char"))
    assert len(found) == 3  # "at "
    assert places.tolist() == [-1, 0, 1, 2, -1]
    found, places = read_again([b"a", b"\xff", b"t"], made("char"))
    assert not found
    assert places.tolist() == [-1, -1, -1]


class Counts(nn.Module):
    """Logits that say how many of which token were read: those of a position are its prefix's."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, input_ids: Tensor) -> Tensor:
        return nn.functional.one_hot(input_ids, self.size).cumsum(1).float()


class Data:
    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer


def test_logits_are_the_teacher_s_after_the_same_text() -> None:
    """Also of packed documents, and not after the end of one."""
    mine, theirs = made("char"), made("bpe", 270)
    table, end = token_bytes(mine), mine.token_to_id("<|end|>")
    size = theirs.get_vocab_size()
    net = ReadsText(Counts(size), Data(theirs), table)  # type: ignore[arg-type]
    texts = ["the cat sat", "on the mat"]
    ids = [mine.encode(text).ids for text in texts]
    both = torch.tensor([ids[0] + ids[1]])
    places = torch.tensor([[*range(len(ids[0])), *range(len(ids[1]))]])
    packed = net(both, places)[0]
    start = 0
    for text, own in zip(texts, ids, strict=True):
        for upto in range(1, len(own) + 1):
            row = packed[start + upto - 1]
            _, where = read_again([table[each] for each in own], theirs)
            if where[upto - 1] < 0:
                assert bool(row.isneginf().all())
                continue
            read = theirs.encode(text).ids[: int(where[upto - 1]) + 1]
            assert row.tolist() == torch.bincount(torch.tensor(read), minlength=size).tolist()
        start += len(own)
    ended = net(torch.tensor([[*ids[0], end, end]]))[0]
    assert bool(ended[len(ids[0]) :].isneginf().all())
    assert torch.equal(ended[: len(ids[0])], packed[: len(ids[0])])


def test_sorted_probabilities_of_other_sizes_by_hand() -> None:
    q = torch.tensor([[0.2, 0.7, 0.1], [0.2, 0.7, 0.1]]).log().requires_grad_()
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 1.0, 1.0, 1.0]]).log()
    p[1] = -torch.inf  # the teacher says nothing there
    batch = Batch(torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    found = UniversalLogit()(Output(q, {}), Output(p, {}), batch)
    assert found.item() == pytest.approx((0.45 + 0.05 + 0.15 + 0.25) / 2)
    found.backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()
    assert q.grad[0].abs().sum() > 0
    assert not q.grad[1].any()


def corpus(folder: Path) -> Path:
    folder.mkdir()
    lines = [
        f"{who} {what} the {where}, "
        for who in ("cats", "dogs", "men")
        for what in ("like", "see", "fear")
        for where in ("mat", "sea", "théâtre", "hill")
    ]
    for split, times in (("train", 12), ("validation", 2), ("test", 2)):
        (folder / f"{split}.txt").write_text("".join(lines) * times)
    return folder


def uld(tiny: Compose, root: Path, *overrides: str) -> Any:
    return tiny(
        "dataset=tinyshakespeare",
        f"dataset.root={root}",
        "dataset.context=24",
        "dataset.tokens=char",
        "dataset.vocab_size=40",
        "teacher=gpt",
        "student=gpt",
        *[
            f"{who}.model.{name}"
            for who in ("teacher", "student")
            for name in ("depth=1", "width=16", "heads=2")
        ],
        "++teacher.dataset={tokens: bpe, vocab_size: 280, context: 16}",
        "teacher.model.vocab_size=280",
        "teacher.model.context=16",
        "+trainer.limit_train_batches=6",
        *overrides,
    )


def test_a_teacher_with_another_tokenizer_teaches(
    tiny: Compose,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = uld(tiny, corpus(tmp_path / "text"), "loss=uld", f"output_dir={tmp_path / 'out'}")
    check(config)
    record = run(config, tmp_path / "run")
    assert record.status == "completed", record.error
    assert "the teacher has another tokenizer (280 tokens, the student 40)" in caplog.text
    metrics = record.metrics
    for name in ("val_bits_per_byte", "teacher_val_bits_per_byte", "teacher_val_accuracy"):
        assert (metrics[name] or 0) > 0, name
    for name in ("teacher_kl", "teacher_agreement", "acceptance_rate"):
        assert metrics[name] is None, name
    assert record.provenance["soft_targets"] is None
    assert (record.costs["teacher_num_params"] or 0) > (record.costs["num_params"] or 0)
    for name in ("own_metrics", "positions.accuracy"):  # what it is worth is known
        monkeypatch.setattr(f"kd_research.trial.known_once.{name}", lambda *_: pytest.fail("again"))
    again = run(
        uld(
            tiny,
            tmp_path / "text",
            "loss=uld",
            "+text@loss.text=student",
            "loss.text.share=0.5",
            f"output_dir={tmp_path / 'out'}",
        ),
        tmp_path / "on_policy",
    )
    assert again.status == "completed", again.error
    assert (again.costs["generated_tokens"] or 0) > 0
    for name in ("teacher_val_bits_per_byte", "teacher_val_accuracy"):
        assert again.metrics[name] == metrics[name]


def test_other_losses_are_told_before_a_teacher_is_trained(tiny: Compose, tmp_path: Path) -> None:
    root = corpus(tmp_path / "text")
    with pytest.raises(ConfigError) as told:
        check(uld(tiny, root, "loss=fkl"))
    assert "and the loss's fkl compares token with token; type loss=uld" in str(told.value)
    with pytest.raises(ConfigError, match=r"teacher.dataset has 280 tokens; type teacher.model"):
        check(uld(tiny, root, "loss=uld", "teacher.model.vocab_size=40"))
    mixed = uld(tiny, root, "loss=uld", "+text@loss.text=mixed", f"output_dir={tmp_path / 'out'}")
    with pytest.raises(ConfigError, match="it has a tokenizer of its own"):
        Parts(plain(mixed))
