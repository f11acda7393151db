"""A training with the stages before it: each a fit of its own, then the training itself.

A stage has its own optimizer, schedule and checkpoints, in `stages/NAME/` of the run's folder,
with a metrics.jsonl of its own. Nothing is validated or selected in it: its last epoch's weights
go on. Every fit starts from the same random state, so that what was cut off comes to the same.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything

from kd_research.configuration.ranks import is_first_process
from kd_research.configuration.stage_checks import epochs_left
from kd_research.data.module import DataModule
from kd_research.records.record import METRICS_NAME, read_json, write_json
from kd_research.training.callbacks import WithoutFrozen
from kd_research.training.continuation import (
    STAGES,
    Continuation,
    checkpoint_path,
    discard,
    last_epoch,
    trim_rows,
)
from kd_research.training.cost import EpochTimes
from kd_research.training.distill import Distiller
from kd_research.training.fit import EpochLog, Row, fit, make_trainer
from kd_research.training.selection import Selection
from kd_research.training.spoken import Bar, Epochs

log = logging.getLogger(__name__)
COST_NAME = "stage.json"  # what a finished stage cost


def fit_in_stages(
    module: Distiller,
    data: DataModule,
    options: Mapping[str, Any],
    directory: Path,
    log: Callable[[Row], None],
    fit_identity: str | None = None,
    callbacks: Sequence[Callback] = (),
    name: str = "train",
) -> Selection:
    """Fit the module's stages in their order, then the training itself, as `fit` does.

    A call after a kill goes on within the stage, or the training, that was cut off.

    Args:
        module: what to train; built.
        data: what on.
        options: keyword arguments of Lightning's Trainer; `max_epochs` are the training's own
            epochs, with those of the stages that are within it.
        directory: for checkpoints.
        log: takes one row an epoch of the training itself.
        fit_identity: as of `fit`; None: nothing of it can go on.
        callbacks: more of Lightning's, of the training itself.
        name: of the fit, in what is said of its epochs.

    Raises:
        ConfigError: Lightning refuses an option, or has no such device.
        FloatingPointError: a loss or metric became non-finite.
    """
    max_epochs = int(options["max_epochs"])
    if module.learners is not None and max_epochs:
        goes_on = fit_identity is not None and last_epoch(directory, fit_identity) is not None
        for stage in module.stages if not goes_on else ():
            module.learners.enter(stage)
            folder = directory / STAGES / stage
            _fit_stage(module, data, options, folder, fit_identity, f"{name}, {stage}")
        module.learners.enter(None)
        left = epochs_left(map(vars, module.stages.values()), max_epochs)
        options = {**options, "max_epochs": left}
        _start_anew()
    return fit(module, data, options, directory, log, fit_identity, callbacks, name)


def stage_costs(module: Distiller, directory: Path) -> dict[str, float]:
    """What each stage of a finished fit cost, by name: epochs, seconds, learning parameters."""
    paths = {name: directory / STAGES / name / COST_NAME for name in module.stages}
    return {
        f"stage_{name}_{what}": value
        for name, path in paths.items()
        if path.exists()
        for what, value in read_json(path).items()
    }


def _start_anew() -> None:
    """Go back to the random state that the run's seed gives."""
    seed_everything(torch.initial_seed() % 2**32, verbose=False)


def _fit_stage(
    module: Distiller,
    data: DataModule,
    options: Mapping[str, Any],
    folder: Path,
    fit_identity: str | None,
    name: str,
) -> None:
    """Fit the stage that the module is in; one that was finished before is loaded."""
    stage = module.objective.stage
    assert stage is not None
    assert module.learners is not None
    epochs = module.stages[stage].length(int(options["max_epochs"]))
    if not epochs:
        log.warning("%s has no epoch of the %s of the training", name, options["max_epochs"])
        return
    done = None if fit_identity is None else last_epoch(folder, fit_identity)
    path = checkpoint_path(folder)
    if done is not None and done + 1 == epochs:
        found = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(found["state_dict"], strict=False)  # without what never learns
        return
    if done is None:
        discard(folder)
    if is_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        trim_rows(folder / METRICS_NAME, done)
    spoken = Epochs(name, epochs)

    def log_and_say(row: Row) -> None:
        with (folder / METRICS_NAME).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        spoken.say(row)

    bar = options.get("enable_progress_bar")
    bar = sys.stderr.isatty() if bar is None else bar
    own = {"max_epochs": epochs, "max_steps": -1, "limit_val_batches": 0}
    times = EpochTimes()
    continuation = [Continuation(folder, fit_identity)] if fit_identity is not None else []
    spoken_bar = [Bar()] if bar else []
    callbacks: list[Callback] = [times, EpochLog(log_and_say), WithoutFrozen()]
    callbacks += [*continuation, *spoken_bar]
    trainer = make_trainer({**options, **own, "enable_progress_bar": bar}, folder, callbacks)
    module.strict_loading = False
    _start_anew()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found .* in eval mode at the start")  # they are
        trainer.fit(module, datamodule=data, ckpt_path=None if done is None else str(path))
    if trainer.is_global_zero:
        seconds, cpu_seconds = times.totals()
        learning = module.learners.count(stage)
        known = {"epochs": epochs, "seconds": seconds, "cpu_seconds": cpu_seconds}
        write_json(folder / COST_NAME, {**known, "parameters": learning})
    trainer.strategy.barrier(stage)
