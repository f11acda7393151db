"""Losses that look at the tokens of sentences, whose number changes from batch to batch."""

import logging

import pytest
from later import Later
from tiny import composed, plain

from kd_research.trial.run import run

datasets = Later("datasets")


@pytest.mark.filterwarnings("ignore:.*nested tensor:UserWarning")
def test_a_run_whose_loss_looks_at_tokens_of_sentences(tmp_path, caplog):
    words = ["good", "bad", "film", "plot", "the", "a"]
    sentences = [" ".join(words[(at + step) % 6] for step in range(1 + at % 7)) for at in range(60)]
    rows = datasets.Dataset.from_dict({"text": sentences, "label": [at % 2 for at in range(60)]})
    rows.to_parquet(tmp_path / "train-0.parquet")
    small = [
        f"{who}.{key}"
        for who in ("teacher", "student")
        for key in ("model.width=8", "model.depth=1", "model.heads=2")
    ]
    config = composed(
        "dataset=hub_text",
        f"dataset.root={tmp_path}",
        "dataset.num_classes=2",
        "dataset.vocab_size=20",
        "dataset.batch_size=8",
        "teacher=text_transformer",
        "student=text_transformer",
        *small,
        "loss=distilbert",
        "layers@loss.layers=gpt",
        "trainer.max_epochs=2",
        "teacher.trainer.max_epochs=1",
        "efficiency.num_runs=5",
        "tracking=disabled",
        f"output_dir={tmp_path / 'out'}",
    )
    with caplog.at_level(logging.WARNING):
        record = run(plain(config), tmp_path / "run")
    assert record.status == "completed", record.error
    assert "the teacher runs live: the loss looks at its tokens" in caplog.text
