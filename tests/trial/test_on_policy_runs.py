"""Runs that train on text of the student: each method from its YAML to the record."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from positions_data import CONTEXT, VOCABULARY, with_positions
from tiny import Compose, plain

from kd_research.configuration.config import ConfigError, check
from kd_research.records.record import METRICS_NAME, RunRecord
from kd_research.teacher import chain
from kd_research.training import continuation
from kd_research.training.fit import EpochLog
from kd_research.trial import texts
from kd_research.trial.assembly import Parts
from kd_research.trial.run import run

ADAPTIVE = (
    "loss=distillm",
    "loss.on_policy=0.6",
    "loss.text.replay.capacity=32",
    "loss.text.replay.tolerance=0",
)


def with_text(tiny: Compose, *overrides: str, **source: Any) -> DictConfig:
    """A gpt of one layer on prompts of several lengths and what follows them."""
    config = with_positions(tiny, *overrides, **source)
    for who, width in (("teacher", 16), ("student", 8)):
        config[who].model = {
            "_target_": "kd_research.models.gpt.GPT",
            "vocab_size": VOCABULARY,
            "context": CONTEXT,
            "depth": 1,
            "width": width,
            "heads": 2,
            "dropout": 0.1,
        }
    return config


def weights(directory: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(directory / "weights.pt", weights_only=True)
    return loaded


def same(one: Path, other: Path) -> bool:
    found, expected = weights(one), weights(other)
    return all(torch.equal(found[key], expected[key]) for key in expected)


def rows(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / METRICS_NAME).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("term", "overrides"),
    [
        ("gkd", ("loss=gkd",)),
        ("akl", ("loss=akl", "+text@loss.text=student", "loss.text.share=0.5")),
        ("minillm", ("loss=minillm",)),
        ("distillm", ADAPTIVE),
        ("speculative_kd", ("loss=speculative_kd", "loss.top_k=3")),
    ],
)
def test_a_method_runs_from_its_file(
    tiny: Compose, tmp_path: Path, term: str, overrides: tuple[str, ...], caplog: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        record = run(with_text(tiny, *overrides), tmp_path)
    assert record.status == "completed", record.error
    assert caplog.text.count("the teacher runs live") == 1
    assert record.provenance["soft_targets"] is None
    costs = record.costs
    share = costs["on_policy_share"]
    assert share is not None
    assert 0.2 < share <= 1
    if term in ("minillm", "speculative_kd"):
        assert share == 1
    made, seconds = costs["generated_tokens"], costs["generation_seconds"]
    assert made is not None
    assert seconds is not None
    assert 0 < made <= 2 * 96 * (CONTEXT + 1)
    assert seconds > 0
    last = rows(tmp_path)[-1]
    assert last[f"train_{term}"] > 0
    assert ("train_data_ce" in last) == (term == "minillm")
    assert last["val_nll"] < rows(tmp_path)[1]["val_nll"] + 0.5


def test_the_teacher_s_text_is_written_once_for_runs_of_all_seeds(
    tiny: Compose, tmp_path: Path
) -> None:
    found = []
    for seed in (0, 1):
        config = with_text(tiny, "loss=seqkd", f"seed={seed}", f"output_dir={tmp_path / 'out'}")
        found.append(run(config, tmp_path / f"seqkd-{seed}"))
        assert found[-1].status == "completed", found[-1].error
    assert len(list((tmp_path / "out" / "teacher_text").glob("*.parquet"))) == 1
    assert (found[0].costs["generated_tokens"] or 0) > 96
    for name in ("generated_tokens", "generation_seconds"):  # of whoever wrote it
        assert found[0].costs[name] == found[1].costs[name]
    assert found[0].metrics["teacher_kl"] is not None
    assert found[0].provenance["soft_targets"] is None
    soft = with_text(tiny, "loss=fkl", "+text@loss.text=teacher", f"output_dir={tmp_path / 'out'}")
    record = run(soft, tmp_path / "fkl")
    assert record.status == "completed", record.error
    assert record.provenance["soft_targets"] is not None  # such text can be cached
    assert len(list((tmp_path / "out" / "teacher_text").glob("*.parquet"))) == 1


def test_a_share_of_nothing_is_the_divergence_on_the_data(tiny: Compose, tmp_path: Path) -> None:
    for name, *own in (
        ("data", "loss=gkd", "loss.on_policy=0"),
        ("jsd", "loss=jsd", "loss.lambda=1"),
        ("unweighed", "loss=gkd", "loss.lambda=0"),
        ("ce", "loss=ce"),
    ):
        run(with_text(tiny, *own, "trainer.max_epochs=1"), tmp_path / name)
    assert same(tmp_path / "data", tmp_path / "jsd")
    assert same(tmp_path / "unweighed", tmp_path / "ce")


def test_the_same_seed_gives_the_same_student(tiny: Compose, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(with_text(tiny, "loss=gkd", f"output_dir={tmp_path / name / 'out'}"), tmp_path / name)
    assert same(tmp_path / "one", tmp_path / "two")
    run(with_text(tiny, "loss=jsd", "loss.lambda=1"), tmp_path / "jsd")
    assert not same(tmp_path / "one", tmp_path / "jsd")


def test_a_fit_that_was_cut_off_goes_on_with_its_replayed_text(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuation, "LONGEST_SHARE", float("inf"))
    config = with_text(tiny, *ADAPTIVE, "trainer.max_epochs=4")
    whole = run(config, tmp_path / "whole")
    assert len({row["val_nll"] for row in rows(tmp_path / "whole")[1:]}) > 1
    ended = EpochLog.on_train_epoch_end

    def cut(self: EpochLog, trainer: Any, module: Any) -> None:
        ended(self, trainer, module)
        if trainer.current_epoch == 2:
            raise SystemExit(143)

    with monkeypatch.context() as patched:
        patched.setattr(EpochLog, "on_train_epoch_end", cut)
        with pytest.raises(SystemExit):
            run(config, tmp_path / "cut")
    again = run(config, tmp_path / "cut")
    assert [row["epoch"] for row in rows(tmp_path / "cut")] == [-1, 0, 1, 2, 3]
    assert same(tmp_path / "cut", tmp_path / "whole")
    for name in ("generated_tokens", "on_policy_share"):
        assert again.costs[name] == whole.costs[name]


def refused(config: DictConfig) -> str:
    with pytest.raises(ConfigError) as error:
        Parts(plain(config))
    return str(error.value)


def test_what_cannot_be_written_is_told_before_training(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpadded = with_positions(tiny, "loss=gkd")  # a net that takes no attention_mask
    assert "TokenNet takes no attention_mask" in refused(unpadded)
    alone = with_text(tiny, "loss=gkd", "loss.lambda=0.5")
    alone.loss.terms = {}  # as of a class of one's own, of which the checks before know nothing
    assert "it needs a term with a teacher, and this loss has none" in refused(alone)
    monkeypatch.setattr(chain, "obtain", None)  # the rest is told before a teacher is trained
    long = with_text(tiny, "loss=gkd", "loss.text.max_new_tokens=12")
    assert "prompt_tokens=6 and max_new_tokens=12 are more than a window of 12" in refused(long)
    wrong = with_text(tiny, "loss=gkd", "loss.on_policy=2", "loss.text.generation.top_p=0")
    assert "share must be in [0, 1], got 2" in refused(wrong)
    assert "top_p must be in (0, 1], got 0" in refused(wrong)
    ending = with_text(tiny, "loss=gkd", "trainer.strategy=fsdp")
    with monkeypatch.context() as patched:
        patched.setattr(texts, "stop_of", lambda *_: 3)
        assert "type trainer.strategy=ddp" in refused(ending)
    for loss in ("gkd", "seqkd"):
        assert "and dataset digits has no windows of it" in refused(tiny(f"loss={loss}"))
    alone = with_text(tiny, "loss=seqkd")
    alone.teacher.model = None
    with pytest.raises(ConfigError, match="loss.text is drawn with a teacher, got teacher=none"):
        check(alone)


def test_plain_text_needs_no_padding(tiny: Compose, tmp_path: Path) -> None:
    record: RunRecord = run(with_positions(tiny, "loss=gkd", prompt=False), tmp_path)
    assert record.status == "completed", record.error
    assert (record.costs["generated_tokens"] or 0) > 0
