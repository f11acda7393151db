"""One run, from a composed configuration to a record, in a process that is no Hydra application.

`python -m kd_research.trial DIR` runs `DIR/config.yaml` by hand, or again; torchrun and srun may
start it as they are: every process reads the same file, and the first alone writes.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from omegaconf import DictConfig, OmegaConf
from torch import distributed

from kd_research.configuration import config as configs
from kd_research.configuration.config import ConfigError
from kd_research.configuration.environment import writable
from kd_research.configuration.ranks import be_one_process, is_first_process, take_rank
from kd_research.data.text import TOKENIZER_NAME
from kd_research.evaluation.class_shift import shift_metrics
from kd_research.evaluation.costs import costs_of_pair, num_params
from kd_research.evaluation.disagreements import write_samples
from kd_research.evaluation.generation import sample_texts
from kd_research.pools.local import LocalPool, cores
from kd_research.records.outside import PUT_BACK, Held, OutsideError, trouble
from kd_research.records.printable import printable, typed
from kd_research.records.printing import print_safely
from kd_research.records.provenance import provenance
from kd_research.records.record import (
    CONFIG_NAME,
    METRICS_NAME,
    SPOKEN_NAME,
    STOP_NAME,
    RunRecord,
    stopped_record,
    write_record,
)
from kd_research.teacher.checkpoint import WEIGHTS_NAME, save_weights
from kd_research.tracking import tell_offline, track
from kd_research.training.adapters import trained_parameters
from kd_research.training.continuation import discard, identity, last_epoch, trim_rows
from kd_research.training.cost import EpochTimes
from kd_research.training.device import check_device, memory_problem
from kd_research.training.fit import Row, make_trainer
from kd_research.training.paper_rule import PaperRule
from kd_research.training.spoken import spoken_into
from kd_research.training.stage_fits import fit_in_stages, stage_costs
from kd_research.trial.assembly import CPU, Parts
from kd_research.trial.known_once import of_teacher
from kd_research.trial.summary import summary

INTERRUPTED, TERMINATED = 130, 143  # the exit codes of Ctrl-C and of SIGTERM


def run(config: DictConfig | Mapping[str, Any], directory: Path) -> RunRecord:
    """One run: data, teacher, student, fit, evaluation, record.

    Args:
        config: the composed configuration.
        directory: the run's folder; gets record.json, metrics.jsonl and weights.pt.

    Returns:
        The record, also written. A run that fails gives one that says why.

    Raises:
        OutsideError: no room, or the disk, the network or the folder is away: there is no record,
            and the run goes on when it is run again.
    """
    plain = _plain(config)
    noted = writable(config) if isinstance(config, DictConfig) else plain
    directory.mkdir(parents=True, exist_ok=True)
    (directory / STOP_NAME).unlink(missing_ok=True)
    started = time.time()
    with closing(Held(directory)) as held, track(plain, directory, noted) as tracker:
        try:
            record = _distil(plain, directory, tracker.log)
        except SystemExit:  # asked to end: by its sweep for good, or put back
            if not is_first_process() or not (directory / STOP_NAME).exists():
                raise
            record = stopped_record(plain, directory)
        except Exception as error:
            held.check()
            if outside := trouble(error, directory):
                raise OutsideError(outside) from error
            if not is_first_process():
                raise  # the launcher ends the other processes; the first one tells
            if memory := memory_problem(error, plain):
                reason = memory
            elif isinstance(error, ConfigError):
                reason = str(error)
            else:
                print(printable(traceback.format_exc()), file=sys.stderr)
                reason = f"{type(error).__name__}: {error}"
            record = RunRecord("failed", plain, plain["seed"], error=reason)
        told = None if record.error is None else printable(record.error)
        record = replace(record, config=noted, error=told)
        record.provenance.update(provenance(), started=started, seconds=time.time() - started)
        held.check()
        if is_first_process():
            write_record(record, directory)
            discard(directory)
            tracker.finish(record)
    return record


def _plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    return dict(plain)  # type: ignore[arg-type]


def _device(config: dict[str, Any], directory: Path) -> torch.device:
    """Where this process of the run computes; tells what is wrong with it before a teacher."""
    device: torch.device = make_trainer(config["trainer"], directory).strategy.root_device
    check_device(device, config["trainer"]["accelerator"])
    return device


def _distil(config: dict[str, Any], directory: Path, mirror: Callable[[Row], None]) -> RunRecord:
    """The run itself; raises where it fails."""
    parts = Parts(config, _device(config, directory))
    first = is_first_process()
    log_path = directory / METRICS_NAME
    fit_identity = identity(config)
    epoch = last_epoch(directory, fit_identity)
    for row in trim_rows(log_path, epoch) if first else ():
        mirror(row)  # the tracker may have lost them

    def log(row: Row) -> None:
        with log_path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        mirror(row)

    start: dict[str, float | int | None] = {}
    if parts.teacher and first and epoch is None:
        start["teacher_val_accuracy"] = parts.teacher_accuracy()
    if config["sweep"].get("early_stopping") and first and epoch is None:
        start |= parts.shared_costs(CPU).fixed(parts.student)
    if start:
        log({"epoch": -1, "step": 0, **start})
    seed_everything(config["seed"], verbose=False)  # dropout is the same whatever the loss built
    reader = [PaperRule(config["paper_rule"], parts.data)] if config["paper_rule"] else []
    times = EpochTimes()
    callbacks: list[Callback] = [*reader, times]
    selection = fit_in_stages(
        parts.module, parts.data, config["trainer"], directory, log, fit_identity, callbacks
    )
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()  # else gloo may abort at exit, after success
    if not first:
        return RunRecord("completed", config, config["seed"])
    save_weights(parts.student, directory / WEIGHTS_NAME)
    if parts.data.tokenizer is not None:
        parts.data.tokenizer.save(str(directory / TOKENIZER_NAME))
    teacher = parts.teacher.module if parts.teacher else None
    device = parts.module.trainer.strategy.root_device
    for net in (parts.student, teacher):
        if net is not None:
            net.to(device)
    measured = parts.shared_costs(device)
    measured.begin()
    evaluation = parts.evaluate()
    evaluation.write(directory)
    known = partial(of_teacher, config, parts.teacher, parts.data)
    samples = sample_texts(parts.student, parts.writer, parts.data, config["seed"], known)
    write_samples(samples, parts.data, evaluation.predictions, directory)
    metrics = dict(evaluation.metrics)
    for rule in reader:
        metrics |= rule.metrics()
    if config["shift_classes"]:
        metrics |= shift_metrics(parts.student, parts.data, config["shift_classes"])
    step, its = parts.shared_step_bytes(device) if parts.trains else ({}, {})
    costs, how = costs_of_pair(parts.student, teacher, measured)  # last: it may wait for another
    costs |= times.costs() | stage_costs(parts.module, directory) | parts.text_costs() | step
    how |= {"train_step_shared": its.get("shared")}
    costs["trained_parameters"] = trained_parameters(parts.student) if parts.trains else 0
    return RunRecord(
        status="completed",
        config=config,
        seed=config["seed"],
        metrics=metrics,
        costs=costs,
        selection=selection.as_dict(),
        provenance={
            "data_fingerprint": parts.data.fingerprint(),
            "split_sizes": {n: len(getattr(parts.data, n)) for n in ("train", "val", "test")},
            "teacher_fingerprint": parts.teacher.fingerprint if parts.teacher else None,
            "teacher_path": str(parts.teacher.path) if parts.teacher else None,
            "soft_targets": parts.module.cached.summary() if parts.module.cached else None,
            "measurement": {**how, **parts.data.reading},
        },
    )


def quiet() -> None:
    """Keep the libraries' notes, which say nothing of the experiment, off the terminal."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message="The `srun` command is available")


def prepare(arguments: list[str]) -> int:
    """Build the parts of the folder's configuration, the teacher among them, and run nothing."""
    quiet()
    config: dict[str, Any] = {}
    try:
        directory = Path(arguments[0])
        be_one_process()
        config = _plain(configs.load(directory / CONFIG_NAME))
        with spoken_into(directory / SPOKEN_NAME):
            parts = Parts(config, _device(config, directory))
        if parts.teacher:
            pool = config["pool"]
            if pool["_target_"] == f"{LocalPool.__module__}.{LocalPool.__qualname__}":
                torch.set_num_threads(min(pool["slots"] or cores(), cores()))  # idle until then
            accuracy, size = parts.teacher_accuracy(), num_params(parts.teacher.module)
            print(f"teacher: validation accuracy {accuracy:.4f} (1 seed), {size:,} parameters")
    except Exception as error:
        if outside := trouble(error, Path(arguments[0])):
            print(outside)
            return PUT_BACK
        memory = memory_problem(error, config)
        if memory is None and not isinstance(error, ConfigError):
            raise
        print(memory or error)
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the folder named on the command line; 0 completed, 1 failed, 2 wrong input.

    75: ended from outside, to be run again.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or arguments[0] in {"-h", "--help"}:
        print("usage: python -m kd_research.trial DIR    (runs DIR/config.yaml)", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    directory = Path(arguments[0]).resolve()
    quiet()
    # so that `finally` runs
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    by_hand = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if by_hand:  # Lightning takes a KeyboardInterrupt for an end of its own
        signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))
    try:
        config = configs.load(directory / CONFIG_NAME)
        take_rank(config)
        record = run(config, directory)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, OutsideError) as error:
        reason = trouble(error, directory)
        if reason is None:
            raise
        print(f"put back: {reason}", file=sys.stderr)
        return PUT_BACK
    except SystemExit as ended:
        if by_hand and ended.code in (INTERRUPTED, TERMINATED) and is_first_process():
            again = f"python -m kd_research.trial {typed(directory)}"
            print(f"\nstopped; this goes on after the last saved epoch: {again}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if by_hand:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_first_process():
        failed = record.status != "completed"
        print(summary(record, directory), file=sys.stderr if failed else sys.stdout)
        tell_offline(record.config, directory)
    return 0 if record.status == "completed" else 1


if __name__ == "__main__":
    print_safely()
    sys.exit(main())
