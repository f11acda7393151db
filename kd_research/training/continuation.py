"""A fit that was cut off goes on from its last epoch, to the same result.

What Lightning's checkpoint holds (weights, optimizer, scheduler, loops, callbacks, and with the
module the loss's own parts and memory banks) and what it lacks: the random state of every process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from kd_research.records.record import read_text, write_text
from kd_research.records.saved import read_saved
from kd_research.training.callbacks import PerEpoch

log = logging.getLogger(__name__)
LONGEST_SHARE = 0.1  # of the time, for saving: an epoch as long as ten savings is saved at once
KEY = "kd_research"
STAGES = "stages"  # the folder of those before the training itself, in a run's
# What may change in a configuration without changing the fit.
OTHER_KEYS = (
    *("overrides", "tracking", "output_dir", "sweep", "pool", "sampler", "efficiency"),
    "text_evaluation",
)


def identity(config: Mapping[str, Any]) -> str:
    """SHA-256 over what decides a fit: a checkpoint of another one is not continued."""
    content = {key: value for key, value in config.items() if key not in OTHER_KEYS}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def checkpoint_path(directory: Path) -> Path:
    """Where a run's folder has it while the run lasts."""
    return directory / "checkpoints" / "last.ckpt"


def last_epoch(directory: Path, fit_identity: str) -> int | None:
    """The epoch after which the fit in the folder can go on; None: it starts from nothing.

    What it goes on from is read before: the last epoch's checkpoint, and beside it the selected
    epoch's, which the end of the fit needs. What is damaged is named in the log.
    """
    path = checkpoint_path(directory)
    if not path.exists():
        return None
    try:
        found = read_saved(path)
        if found.get(KEY, {}).get("identity") != fit_identity:
            return None
        for state in found.get("callbacks", {}).values():
            if selected := state.get("best_model_path"):
                if Path(selected).parent != path.parent:
                    raise ValueError(f"{path} is of a run in another folder")
                read_saved(Path(selected))
    except ValueError as error:
        log.warning("%s; the fit starts from its first epoch", error)
        return None
    return int(found["epoch"])


def discard(directory: Path, stages: bool = True) -> None:
    """Remove what a fit could go on from: its result is written, or is known to be none.

    Args:
        directory: the run's folder.
        stages: whether also that of the stages before it.
    """
    folders = [directory, *((directory / STAGES).glob("*") if stages else ())]
    for folder in folders:
        shutil.rmtree(checkpoint_path(folder).parent, ignore_errors=True)


def trim_rows(path: Path, epoch: int | None) -> list[dict[str, Any]]:
    """Leave in a metrics.jsonl what came up to `epoch`, nothing if that is None.

    Returns:
        The rows that stay.
    """
    rows = []
    for line in read_text(path).splitlines() if path.exists() and epoch is not None else ():
        try:
            row = json.loads(line)
        except ValueError:  # the last one, half written
            continue
        if row["epoch"] <= epoch:
            rows.append(row)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


class Continuation(PerEpoch, Checkpoint):
    """Saves the fit at the end of an epoch and brings the random state back.

    At the end of the last epoch always, of the others if that takes no more than LONGEST_SHARE of
    the time: a run that is cut off loses one epoch, or of short ones those of ten savings. Must
    stand behind the callbacks whose state it saves.

    Args:
        directory: the run's folder.
        fit_identity: of the fit.
    """

    def __init__(self, directory: Path, fit_identity: str):
        self.path, self.identity = checkpoint_path(directory), fit_identity
        self._saved_at, self._cost = time.monotonic(), 0.0
        self.metrics: dict[str, float] = {}
        self._random: list[dict[str, Any]] | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if it is time."""
        started = time.monotonic()
        due = self._cost <= LONGEST_SHARE * (started - self._saved_at) or _is_last(trainer)
        if not trainer.strategy.broadcast(due):
            return
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        temporary = self.path.with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.path)
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - started

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random state of every process, and what it keeps of the student's text."""
        text = getattr(pl_module, "text", None)
        own = {**_random_state(), "text": None if text is None else text.state_dict()}
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint[KEY] = {"identity": self.identity, "random": states, "metrics": self.metrics}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember it until the first epoch starts; the metrics, for a fit without another one."""
        self._random, self.metrics = checkpoint[KEY]["random"], checkpoint[KEY]["metrics"]
        text = getattr(pl_module, "text", None)
        if text is not None:
            text.load_state_dict(self._random[trainer.global_rank]["text"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring it back."""
        if self._random is not None:
            state, self._random = self._random[trainer.global_rank], None
            torch.set_rng_state(state["cpu"])
            if state["cuda"] is not None:
                torch.cuda.set_rng_state(state["cuda"])


def _is_last(trainer: Trainer) -> bool:
    """Whether no epoch follows."""
    steps = 0 < trainer.max_steps <= trainer.global_step
    return steps or trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs


def _random_state() -> dict[str, Any]:
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state() if used else None  # else it would start CUDA
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
