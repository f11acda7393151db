"""Windows that begin anywhere: of (seed, view, index) alone, all places alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from later import Later
from tiny import composed, plain

from kd_research.configuration.config import ConfigError
from kd_research.data.module import DataModule
from kd_research.interfaces import Batch
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

datasets = Later("datasets")

CONTEXT = 8


def text_folder(tmp_path: Path, length: int) -> Path:
    root = tmp_path / "text"
    root.mkdir()
    text = "".join(chr(97 + (at * at + at // 7) % 26) for at in range(length))
    for split in ("train", "validation", "test"):
        rows = datasets.Dataset.from_dict({"text": [text]})
        rows.to_parquet(root / f"{split}-00000-of-00001.parquet")
    return root


def keys(tmp_path: Path, root: Path) -> list[str]:
    own = ["dataset=tinyshakespeare", f"dataset.root={root}", f"output_dir={tmp_path / 'out'}"]
    own += [f"dataset.context={CONTEXT}", "dataset.vocab_size=26", "dataset.random_windows=true"]
    return [*own, "teacher=none", "loss=ce", "tracking=disabled"]


def module(tmp_path: Path, length: int) -> tuple[DataModule, torch.Tensor]:
    config: dict[str, Any] = plain(composed(*keys(tmp_path, text_folder(tmp_path, length))))
    data: DataModule = instantiate(config["dataset"], seed=3)
    ids = data.train.take(torch.arange(len(data.train))).inputs
    assert isinstance(ids, dict)
    return data, ids["input_ids"].flatten()


def windows(data: DataModule, index: torch.Tensor, view: int | None) -> Batch:
    taken = data.train.take(index)
    return data.prepare(Batch(taken.inputs, taken.labels, index), view)


@pytest.mark.parametrize("length", [100, 97, 16, 9])
def test_each_window_is_a_piece_of_the_text_and_its_labels_come_next(
    tmp_path: Path, length: int
) -> None:
    data, flat = module(tmp_path, length)
    text = flat[: length - 1].tolist()
    pieces = [text[at : at + CONTEXT] for at in range(len(text) - CONTEXT + 1)]
    num, index = len(data.train), torch.arange(len(data.train))
    for view in range(30):
        batch = windows(data, index, view)
        assert isinstance(batch.inputs, dict)
        ids, labels = batch.inputs["input_ids"], batch.labels
        for row in range(num - 1):
            assert ids[row].tolist() in pieces
            assert torch.equal(labels[row, :-1], ids[row, 1:])
            at = pieces.index(ids[row].tolist())
            assert row * CONTEXT <= at < (row + 1) * CONTEXT or text.count(text[at]) > 1
        assert torch.equal(ids[-1], data.train.take(index[-1:]).inputs["input_ids"][0])
        assert torch.equal(labels[-1], data.train.take(index[-1:]).labels[0])


def test_they_depend_on_seed_view_and_index_alone(tmp_path: Path) -> None:
    data, _ = module(tmp_path, 400)
    index = torch.arange(40)
    whole = windows(data, index, 5)
    some = windows(data, index[[7, 3]], 5)
    assert torch.equal(some.labels, whole.labels[[7, 3]])
    assert not torch.equal(whole.labels, windows(data, index, 6).labels)
    assert not torch.equal(whole.labels, windows(data.with_seed(4), index, 5).labels)
    plain_windows = windows(data, index, None)
    assert torch.equal(plain_windows.labels, data.train.take(index).labels)
    assert data.num_views is None
    data.views = 3
    assert data.view(5) == 2


def test_all_places_are_alike(tmp_path: Path) -> None:
    data, flat = module(tmp_path, 2001)
    index, counts = torch.arange(200), torch.zeros(CONTEXT)
    for view in range(50):
        batch = windows(data, index, view)
        assert isinstance(batch.inputs, dict)
        for row in range(200):
            start = int(row * CONTEXT)
            here = flat[start : start + 2 * CONTEXT - 1].unfold(0, CONTEXT, 1)
            same = (here == batch.inputs["input_ids"][row]).all(1).nonzero()
            counts[int(same[0])] += 1
    expected = counts.sum() / CONTEXT
    assert ((counts - expected).abs() < 5 * expected.sqrt()).all(), counts


def test_a_run_reads_them(tmp_path: Path) -> None:
    given = keys(tmp_path, text_folder(tmp_path, 400))
    model = [
        "student=gpt",
        "student.model.depth=1",
        "student.model.width=8",
        "trainer.max_epochs=2",
    ]
    texts = []
    for switch in ("true", "false"):
        config = composed(*given, *model, f"dataset.random_windows={switch}")
        assert run(config, tmp_path / switch).status == "completed"
        texts.append(torch.load(tmp_path / switch / "weights.pt", weights_only=True))
    assert not torch.equal(texts[0]["head.weight"], texts[1]["head.weight"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dataset.subset=5", "also between the windows of dataset.subset"),
        ("dataset.random_windows=1", "must be true or false, got 1"),
    ],
)
def test_what_cannot_be_read_so_is_told(tmp_path: Path, override: str, told: str) -> None:
    config = plain(composed(*keys(tmp_path, text_folder(tmp_path, 400)), override))
    with pytest.raises(ConfigError, match=told):
        Parts(config)


def test_documents_are_refused(tmp_path: Path) -> None:
    root = text_folder(tmp_path, 400)
    rows = datasets.Dataset.from_dict({"text": ["abc def ghi jkl mno"] * 9})
    rows.to_parquet(root / "train-00000-of-00001.parquet")
    more = ["dataset.end_of_text=END", "dataset.tokens=byte", "dataset.vocab_size=257"]
    config = plain(composed(*keys(tmp_path, root), *more))
    with pytest.raises(ConfigError, match="these are documents; type dataset.random_windows=false"):
        Parts(config)
