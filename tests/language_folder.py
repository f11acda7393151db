"""A finished run of small language models, trained in the process of the test, in a second."""

from __future__ import annotations

from pathlib import Path

from tiny import TINY, composed

from kd_research.configuration.config import save
from kd_research.trial import run as trial

GPT = ("model.depth=1", "model.width=16", "model.heads=2")
TEXT = "the cat sat on the mat, and the dog ate the cat's hat. " * 60


def language_run(
    folder: Path, *overrides: str, dataset: str = "tinyshakespeare", loss: str = "fkl"
) -> Path:
    """Its folder `run`, with config, record and weights; the data and the teacher lie beside it."""
    texts = folder / "texts"
    if not texts.exists():
        texts.mkdir(parents=True)
        (texts / "input.txt").write_text(TEXT)
    common = [each for each in TINY if ".model." not in each and "teacher=" not in each]
    config = composed(
        *common,
        "teacher=gpt",
        "student=gpt",
        *(f"{who}.{each}" for who in ("teacher", "student") for each in GPT),
        f"dataset={dataset}",
        f"dataset.root={texts}",
        f"dataset.vocab_size={len(set(TEXT))}",
        "dataset.context=16",
        f"loss={loss}",
        "teacher.model.width=32",
        "teacher.optimizer.lr=0.01",
        "teacher.trainer.max_epochs=4",
        "trainer.max_epochs=1",
        "dataset.subset=24",
        f"output_dir={folder / 'outputs'}",
        *overrides,
    )
    run = folder / "run"
    save(config, run / "config.yaml")
    record = trial.run(config, run)
    assert record.status == "completed", record.error
    return run
