"""A fit that was cut off goes on from its last epoch, to the same result.

What Lightning's checkpoint holds (weights, optimizer, scheduler, loops, callbacks, and with the
module the loss's own parts and memory banks) and what it lacks: the random state of every process.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from kd_research.records.record import read_text, write_text
from kd_research.training.callbacks import PerEpoch

CHECKPOINT_SECONDS = 10.0  # at least, between two of them: a run that is cut off loses no more
KEY = "kd_research"
# What may change in a configuration without changing the fit.
OTHER_KEYS = ("tracking", "output_dir", "sweep", "pool", "sampler", "efficiency")


def identity(config: Mapping[str, Any]) -> str:
    """SHA-256 over what decides a fit: a checkpoint of another one is not continued."""
    content = {key: value for key, value in config.items() if key not in OTHER_KEYS}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def checkpoint_path(directory: Path) -> Path:
    """Where a run's folder has it while the run lasts."""
    return directory / "checkpoints" / "last.ckpt"


def last_epoch(directory: Path, fit_identity: str) -> int | None:
    """The epoch after which the fit in the folder can go on; None: it starts from nothing."""
    try:
        found = torch.load(checkpoint_path(directory), map_location="cpu", weights_only=True)
    except Exception:  # absent, or of another version: torch raises many types
        return None
    known = found.get(KEY, {}).get("identity")
    return int(found["epoch"]) if known == fit_identity else None


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
    """Saves the fit at the end of an epoch, every few seconds, and brings the random state back.

    Must stand behind the callbacks whose state it saves.

    Args:
        directory: the run's folder.
        fit_identity: of the fit.
    """

    def __init__(self, directory: Path, fit_identity: str):
        self.path, self.identity = checkpoint_path(directory), fit_identity
        self._saved_at = time.monotonic()
        self._random: list[dict[str, Any]] | None = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if it is time; after the last epoch there is nothing to go on with."""
        if trainer.current_epoch + 1 >= (trainer.max_epochs or 0):
            return
        due = time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
        if not trainer.strategy.broadcast(due):
            return
        temporary = self.path.with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.path)
        self._saved_at = time.monotonic()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the random state of every process."""
        states: list[Any] = [_random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, _random_state())
        checkpoint[KEY] = {"identity": self.identity, "random": states}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember it until the first epoch starts."""
        self._random = checkpoint[KEY]["random"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring it back."""
        if self._random is not None:
            state, self._random = self._random[trainer.global_rank], None
            torch.set_rng_state(state["cpu"])
            if state["cuda"] is not None:
                torch.cuda.set_rng_state(state["cuda"])


def _random_state() -> dict[str, Any]:
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state() if used else None  # else it would start CUDA
    return {"cpu": torch.get_rng_state(), "cuda": cuda}
