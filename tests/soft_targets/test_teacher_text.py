"""The teacher's text: written once per content, looked at again, rebuilt where it is damaged."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from positions_data import CONTEXT, VOCABULARY, tokens

from kd_research.data.module import DataModule
from kd_research.generation.decode import generate
from kd_research.generation.settings import GenerationConfig
from kd_research.losses.positions import IGNORED
from kd_research.models.gpt import GPT
from kd_research.soft_targets import teacher_text
from kd_research.soft_targets.teacher_text import META, TeacherText


def data_of(num_windows: int = 20, prompt: bool = True) -> DataModule:
    return DataModule("words", lambda: tokens(num_windows, prompt), VOCABULARY, 8, 0.1, 0.1, 0, 0)


def teacher_of(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(VOCABULARY, CONTEXT, depth=1, width=8, heads=2).eval()


def written(root: Path, data: DataModule, key: Any = "a", **settings: Any) -> DataModule:
    asked = {"prompt_tokens": None, "max_new_tokens": None, "generation": {}, "seed": 0}
    text = TeacherText(**{**asked, **settings})
    return text.instead(data, teacher_of(), key, 3, root)


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(args[1]))
        return generate(*args, **kwargs)

    monkeypatch.setattr(teacher_text, "generate", counting)
    return calls


def test_windows_are_a_prompt_and_what_the_teacher_writes_after_it(tmp_path: Path) -> None:
    data = data_of()
    found = written(tmp_path, data)
    (path,) = tmp_path.glob("words-*.parquet")
    table = pq.read_table(path).to_pylist()
    assert len(table) == len(found.train) == 20
    assert [row["window"] for row in table] == list(range(20))
    whole = data.train.take(torch.arange(20))
    assert isinstance(whole.inputs, dict)
    split = found.train.take(torch.arange(20))
    assert isinstance(split.inputs, dict)
    assert split.labels.shape == (20, CONTEXT)
    for place, row in enumerate(table):
        first = int((whole.labels[place] != IGNORED).int().argmax())
        if first:
            assert row["prompt"] == whole.inputs["input_ids"][place, : first + 1].tolist()[-6:]
        alone = generate(
            teacher_of(),
            torch.tensor([row["prompt"]]),
            GenerationConfig(7, stop=3),
            seed=0,
            rows=torch.tensor([place]),
        )
        assert row["tokens"] == alone.tokens[0][alone.mask[0]].tolist()
        assert row["text"] == "".join(chr(ord("a") + each) for each in row["tokens"])
        ids = row["prompt"] + row["tokens"]
        assert split.inputs["input_ids"][place, : len(ids) - 1].tolist() == ids[:-1]
        learnt = split.labels[place][split.labels[place] != IGNORED]
        assert learnt.tolist() == row["tokens"]
    assert found.val is data.val
    assert found.fingerprint() != data.fingerprint()


def test_it_is_written_once_for_each_content(tmp_path: Path, counted: list[int]) -> None:
    data, calls = data_of(), counted
    first = written(tmp_path, data)
    assert len(calls) == 1
    again = written(tmp_path, data)
    assert len(calls) == 1
    assert torch.equal(first.train.labels, again.train.labels)
    assert first.fingerprint() == again.fingerprint()
    for number, (other, changes) in enumerate(
        [
            (data, {"key": "b"}),
            (data, {"seed": 1}),
            (data, {"generation": {"temperature": 0.5}}),
            (data, {"max_new_tokens": 3}),
            (data_of(prompt=False), {}),
        ],
        start=2,
    ):
        written(tmp_path, other, **changes)
        assert len(calls) == number
    assert len(list(tmp_path.glob("*.parquet"))) == 6


@pytest.mark.parametrize("damage", ["cut", "byte", "other", "keys", "nothing"])
def test_a_damaged_file_is_noticed_and_written_anew(
    tmp_path: Path, counted: list[int], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = written(tmp_path, data_of()).train.labels
    (path,) = tmp_path.glob("*.parquet")
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "byte":
        middle = len(content) // 4
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif damage == "other":
        table = pq.read_table(path)
        pq.write_table(table.slice(1), path)  # a whole file, of fewer rows
    elif damage == "keys":
        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[META])
        kept = json.dumps({"digest": meta["digest"]})
        pq.write_table(table.replace_schema_metadata({META: kept}), path)
    else:
        path.write_bytes(b"")
    assert torch.equal(written(tmp_path, data_of()).train.labels, expected)
    assert len(counted) == 2
    assert f"{path} is damaged" in caplog.text
    written(tmp_path, data_of())
    assert len(counted) == 2


def test_two_that_ask_at_once_write_it_once(tmp_path: Path, counted: list[int]) -> None:
    data = data_of()
    data.fingerprint()
    askers = [threading.Thread(target=written, args=(tmp_path, data)) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(counted) == 1


def test_lengths_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompt_tokens=10 and max_new_tokens=4 are more than"):
        written(tmp_path, data_of(), prompt_tokens=10, max_new_tokens=4)
    with pytest.raises(ValueError, match="max_new_tokens must be >= 1 or null, got 0"):
        TeacherText(None, 0, {}, 0)
