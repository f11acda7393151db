"""What training costs: the time of an epoch and the memory of a step."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kd_research import losses
from kd_research.data.store import content_key, file_digest
from kd_research.evaluation import costs
from kd_research.evaluation.costs import LiveBytes, synchronize
from kd_research.evaluation.shared_costs import PATIENCE, Measured, architecture, layout, once
from kd_research.interfaces import Batch
from kd_research.models.capture import Capture
from kd_research.training import chunked_step, distill
from kd_research.training.callbacks import PerEpoch
from kd_research.training.distill import Distiller

SIZES = re.compile(r"lambda|((student|teacher)_)?temperature|(\w+_)?weight")  # names of numbers
CODE = (  # what a step does, beside its nets
    *sorted(Path(str(losses.__file__)).parent.glob("*.py")),
    *(Path(str(module.__file__)) for module in (costs, distill, chunked_step)),
)


class EpochTimes(PerEpoch, Callback):
    """Times each epoch from its start to its last step: loading, teacher, student, no validation.

    The last step is waited for: a GPU is behind what it was told to do. The ones before are not.
    The processor's time is that of this whole process; beside other work on the machine it says
    more than the wall's.
    """

    def __init__(self) -> None:
        self._times: list[tuple[float, float]] = []
        self._taught: list[bool] = []  # of each epoch: the teacher ran in it
        self._rest: list[float] = []  # processor seconds of teacher outputs that others computed
        self._start = self._now = (0.0, 0.0)
        self._computed = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        assert isinstance(pl_module, Distiller)
        self._computed = pl_module.cached.computed if pl_module.cached else 0
        self._start = (time.perf_counter(), time.process_time())

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Read them: the last reading counts."""
        if trainer.is_last_batch:
            synchronize(trainer.strategy.root_device)
        self._now = (time.perf_counter(), time.process_time())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch's."""
        assert isinstance(pl_module, Distiller)
        cached, rest = pl_module.cached, 0.0
        if cached:
            computed = cached.computed - self._computed
            self._taught.append(computed > 0)
            if computed:  # the others' share of the view, had the teacher been this process's alone
                rest = cached.filling_seconds * (cached.num_examples / computed - 1)
        else:
            self._taught.append(pl_module.objective.asks_teacher)
        self._rest.append(rest)
        self._times.append((self._now[0] - self._start[0], self._now[1] - self._start[1]))

    def state_dict(self) -> dict[str, Any]:
        """For a fit that goes on after it was cut off."""
        return {"times": self._times, "taught": self._taught, "rest": self._rest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The epochs before the cut."""
        self._times = [(wall, cpu) for wall, cpu in state_dict["times"]]
        self._taught = list(state_dict["taught"])
        self._rest = list(state_dict.get("rest", [0.0] * len(self._times)))

    def totals(self) -> tuple[float, float]:
        """Seconds of all epochs: of the wall's clock, and of this process on the processor."""
        return sum(wall for wall, _ in self._times), sum(cpu for _, cpu in self._times)

    def costs(self) -> dict[str, float | None]:
        """Medians over the epochs: of all, and of those with a live teacher and without one.

        train_epoch_seconds and train_epoch_cpu_seconds are of what the run happened to do: the
        first run with some outputs computes them, the others find them. The first epoch counts
        only where it is the only one. live_teacher_epoch_cpu_seconds is of the epochs in which
        teacher outputs were computed, with what of them other processes computed at the price of
        this one's; cached_teacher_epoch_cpu_seconds is of the others; None where there was none.
        """
        seen = self._times[1:] or self._times
        taught = self._taught[1:] or self._taught
        rest = self._rest[1:] or self._rest
        by_teacher = {
            name: [
                cpu + more
                for (_, cpu), ran, more in zip(seen, taught, rest, strict=True)
                if ran == live
            ]
            for name, live in (("live", True), ("cached", False))
        }
        groups = {
            "train_epoch_seconds": [wall for wall, _ in seen],
            "train_epoch_cpu_seconds": [cpu for _, cpu in seen],
            "live_teacher_epoch_cpu_seconds": by_teacher["live"],
            "cached_teacher_epoch_cpu_seconds": by_teacher["cached"],
        }
        return {name: statistics.median(times) if times else None for name, times in groups.items()}


def step_bytes(module: Distiller, teacher: nn.Module | None, batch: Batch) -> int:
    """The most bytes of live tensors in one training step in float32.

    Weights, gradients, the batch, activations, and the teacher where it runs live; not the
    optimizer's own state. Counted tensor by tensor as `efficiency.peak_memory_bytes` does, so the
    same on every machine. Call it last: the step changes running statistics and memory banks.

    Args:
        module: after its fit.
        teacher: what the objective asks, if it asks one.
        batch: prepared training examples, on the module's device.
    """
    module.zero_grad(set_to_none=True)
    module.train()
    asked = teacher is not None and module.objective.asks_teacher
    chunked = module.in_chunks(batch)
    taught = module.run_teacher(batch.inputs) if asked and module.cached and not chunked else None
    running = list(teacher.state_dict().values()) if teacher and asked and not taught else []
    present = [*module.parameters(), *module.buffers(), *running]
    live = LiveBytes([*present, *tree_leaves(tuple(batch)), *tree_leaves(taught)])
    student = Capture(module.student, module.objective.layers("student"))
    loss: Tensor
    with torch.enable_grad(), live:
        if chunked:
            loss, _ = module.losses(batch)
        else:
            output = student(batch.inputs)
            if asked and taught is None:
                taught = module.run_teacher(batch.inputs)
            loss, _ = module.objective(output, taught, batch)
        torch.autograd.backward(loss)
    return live.peak


def step_bytes_once(
    folder: Path,
    made: Mapping[str, Any],
    module: Distiller,
    teacher: nn.Module | None,
    batch: Batch,
) -> Measured:
    """`train_step_bytes`, counted by the first of all runs whose steps are alike.

    Alike are those of the same nets, loss, batch and data: what a temperature or a weight is does
    not matter, other than 0 and 1, which may leave something out.

    Args:
        folder: of all costs.
        made: JSON values of what made "student", "teacher" and "loss", and of the "data".
        module: as of `step_bytes`.
        teacher: likewise.
        batch: likewise.
    """
    objective = module.objective
    asked = teacher is not None and objective.asks_teacher
    learning = [*module.named_parameters(), *module.named_buffers()]
    content = {
        "student": architecture(module.student, made["student"]),
        "teacher": architecture(teacher, made["teacher"]) if teacher and asked else None,
        "objective": architecture(objective, _structure(made["loss"], "", {})),
        "weighed": [bool(objective.ce_weight), *objective.weights],
        "learning": [(name, tuple(x.shape), x.requires_grad) for name, x in learning],
        "taught": [asked, module.cached is not None, module.in_chunks(batch)],
        "batch": [layout(tuple(batch)), made["data"], str(batch.labels.device)],
        "how": [file_digest(path) for path in (Path(__file__), *CODE)],
    }

    def count() -> Measured:
        return {"train_step_bytes": step_bytes(module, teacher, batch)}, {"shared": False}

    path = folder / f"{content_key(content)}.json"
    return once(path, count, ("train_step_bytes",), PATIENCE) or count()


def _structure(value: Any, name: str, seen: dict[float, str]) -> Any:
    """A configuration without the size of its weights and temperatures; equal ones stay equal.

    Args:
        value: a JSON value.
        name: its own.
        seen: sizes that were left out before, and what stands for each.
    """
    if isinstance(value, Mapping):
        given = {key: each for key, each in value.items() if key != "search"}
        return {key: _structure(each, str(key), seen) for key, each in given.items()}
    if isinstance(value, list):
        return [_structure(each, name, seen) for each in value]
    is_size = isinstance(value, int | float) and not isinstance(value, bool)
    if is_size and SIZES.fullmatch(name) and value not in (0, 1):
        return seen.setdefault(value, f"number {len(seen)}")
    return value
