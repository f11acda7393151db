"""One fit: Lightning's Trainer, the validation-selected checkpoint, and the rows of metrics.jsonl.

Lean on purpose: no sanity check, no summary, no per-step logging; what is logged is logged once an
epoch.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler

from kd_research.configuration.config import ConfigError
from kd_research.configuration.ranks import over_nodes
from kd_research.data.module import DataModule
from kd_research.training.callbacks import PerEpoch, WithoutFrozen, frozen
from kd_research.training.continuation import Continuation, checkpoint_path, discard, last_epoch
from kd_research.training.distill import Distiller
from kd_research.training.selection import SELECTION, TEXT_SELECTION, KeepSelected, Selection
from kd_research.training.spoken import Bar, Epochs, described

Row = Mapping[str, float | int | str | None]


class EpochLog(PerEpoch, Callback):
    """Hands one row an epoch to `log`, and stops a fit whose loss is no longer finite."""

    def __init__(self, log: Callable[[Row], None]):
        self.write_row = log  # `log` is Lightning's name, which it binds to every callback

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation has run by now: the row has both."""
        assert isinstance(pl_module, Distiller)
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= pl_module.train_losses.take(trainer.strategy, pl_module.device)
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        every = trainer.check_val_every_n_epoch or 1
        if (trainer.current_epoch + 1) % every == 0:
            row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            self.write_row(row)
        bad = [name for name, value in row.items() if not math.isfinite(float(value))]
        if bad:
            raise FloatingPointError(
                f"{', '.join(bad)} became non-finite in epoch {trainer.current_epoch}; "
                "try a smaller optimizer.lr or trainer.gradient_clip_val=1"
            )


class NoProfiler(PassThroughProfiler):
    """Lightning's, which would make a context manager for each of twenty names a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        """What changes nothing."""
        return self.nothing


def make_trainer(
    options: Mapping[str, Any], directory: Path, callbacks: list[Callback] | None = None
) -> Trainer:
    """Lightning's Trainer, lean.

    Raises:
        ConfigError: Lightning refuses an option, has no such device, or runs another precision.
    """
    if options.get("strategy") == "fsdp":
        from kd_research.training.sharded import Sharded  # half a second that only this needs

        options = {**options, "strategy": Sharded()}
    if options.get("deterministic") is False:  # as Lightning does, less its import of Inductor
        torch.set_deterministic_debug_mode("default")
        options = {name: value for name, value in options.items() if name != "deterministic"}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*precision=.?16")  # refused below
            trainer = Trainer(
                **{"profiler": NoProfiler(), **over_nodes(options)},
                default_root_dir=directory,
                callbacks=callbacks or [],
                logger=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
    except (MisconfigurationException, TypeError, ValueError) as error:  # devices, precision, ...
        raise ConfigError([f"trainer: {error}"]) from error
    wanted = str(options.get("precision") or trainer.precision)
    if wanted in ("16", "16-mixed") and trainer.precision != "16-mixed":
        raise ConfigError(
            [
                f"trainer.precision={wanted} needs a GPU: on a CPU Lightning runs "
                f"{trainer.precision} in its place, got accelerator "
                f"{options.get('accelerator', 'auto')}; try trainer.precision=bf16-mixed"
            ]
        )
    return trainer


def fit(
    module: Distiller,
    data: DataModule,
    options: Mapping[str, Any],
    directory: Path,
    log: Callable[[Row], None],
    fit_identity: str | None = None,
    callbacks: Sequence[Callback] = (),
    name: str = "train",
) -> Selection:
    """Fit, then put the selected epoch's weights into `module.student`.

    Args:
        module: what to train; built.
        data: what on.
        options: keyword arguments of Lightning's Trainer.
        directory: for checkpoints; whoever has written what came of it calls
            `continuation.discard`. Until then the same call, after a kill, trains nothing again.
        log: takes one row an epoch.
        fit_identity: what decides the fit, by `continuation.identity`; a fit of the same that was
            cut off in this directory goes on. None: it starts from nothing, and cannot go on.
        callbacks: more of Lightning's.
        name: of the fit, in what is said of its epochs.

    Raises:
        ConfigError: Lightning refuses an option, or has no such device.
        FloatingPointError: a loss or metric became non-finite.

    With trainer.max_epochs=0 nothing is trained, and the epoch is -1.
    """
    if options.get("strategy") == "fsdp":
        fit_identity = None  # moments are spread over the processes, and are not saved
    checkpoints = directory / "checkpoints"
    goes_on = fit_identity is not None and last_epoch(directory, fit_identity) is not None
    if not goes_on:
        discard(directory, stages=False)
    metric, mode = TEXT_SELECTION if data.val.labels.ndim == 2 else SELECTION
    keep = KeepSelected(checkpoints, metric, mode)
    keep.save_weights_only = options.get("strategy") == "fsdp"
    options = dict(options)
    if options.get("enable_progress_bar") is None:
        options["enable_progress_bar"] = sys.stderr.isatty()
    if not options["max_epochs"]:
        return _as_it_is(module, data, make_trainer(options, directory), metric)
    bar = [Bar()] if options["enable_progress_bar"] else []
    spoken = Epochs(name, int(options["max_epochs"]))

    def log_and_say(row: Row) -> None:
        log(row)
        spoken.say(row)
        for each in bar:
            each.last = described(row)

    continuation = [Continuation(directory, fit_identity)] if fit_identity is not None else []
    callbacks = [*callbacks, EpochLog(log_and_say), WithoutFrozen(), keep, *continuation, *bar]
    unchanged = set(frozen(module))
    module.strict_loading = not unchanged
    trainer = make_trainer(options, directory, callbacks)
    path = str(checkpoint_path(directory)) if goes_on else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty")  # it goes on
        if module.stages:  # what stands still after them is in eval mode
            warnings.filterwarnings("ignore", message="Found .* in eval mode at the start")
        trainer.fit(module, datamodule=data, ckpt_path=path)
    last = trainer.callback_metrics or continuation[0].metrics  # these where no epoch was left
    return _selected(module, trainer, keep, last, unchanged)


def _selected(
    module: Distiller,
    trainer: Trainer,
    keep: KeepSelected,
    last: Mapping[str, Any],
    unchanged: set[str],
) -> Selection:
    """Put the selected epoch's weights, all but the `unchanged`, into the student.

    Args:
        module: what was trained.
        trainer: that has done so.
        keep: what has kept the selected epoch's weights.
        last: the last epoch's metrics.
        unchanged: parameters that were frozen, and are in no checkpoint.
    """
    if keep.best_model_score is None:
        raise ValueError(
            f"no epoch was validated: trainer.max_epochs={trainer.max_epochs}, "
            f"trainer.check_val_every_n_epoch={trainer.check_val_every_n_epoch}"
        )
    metric = str(keep.monitor)
    selected = torch.load(keep.best_model_path, map_location="cpu", weights_only=True)
    found = module.load_state_dict(selected["state_dict"], strict=False)
    if found.unexpected_keys or not unchanged.issuperset(found.missing_keys):
        raise ValueError(f"{keep.best_model_path} is of another student: {found}")
    trainer.strategy.barrier("selected")
    return Selection(
        metric=metric,
        epoch=selected["epoch"],
        value=float(keep.best_model_score),
        last_epoch=trainer.current_epoch - 1,
        last_value=float(last[metric]),
        ties=keep.ties,
    )


def _as_it_is(module: Distiller, data: DataModule, trainer: Trainer, metric: str) -> Selection:
    """What is selected where there is no epoch: the student that was given, validated."""
    (found,) = trainer.validate(module, datamodule=data, verbose=False)
    value = float(found[metric])
    return Selection(metric, epoch=-1, value=value, last_epoch=-1, last_value=value, ties=0)
