"""Reads the folder of a sweep, or of plain runs, back into memory, whatever of it is whole.

Only files are read (sweep.yaml, proposal.json, record.json, metrics.jsonl): neither the study nor
a model is opened, and a sweep that is still running reads as far as it has come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from kd_research.configuration import constraints
from kd_research.configuration.config import DIRECTIONS
from kd_research.records.record import (
    CONFIG_NAME,
    EVALUATION_NAME,
    METRICS_NAME,
    PREDICTIONS_NAME,
    PROPOSAL_NAME,
    RECORD_NAME,
    SWEEP_NAME,
    RunRecord,
    read_record,
)
from kd_research.report.damage import damage, is_number, read_exported, read_proposal
from kd_research.report.runs import described
from kd_research.report.sweep import Run, Sweep, Trial

DEFAULT_OBJECTIVES = {"val_accuracy": "maximize", "num_params": "minimize"}
SPEC_TYPES: Mapping[str, Callable[[Any], bool]] = {  # of sweep.yaml, where it is read here
    "objectives": lambda it: isinstance(it, dict) and set(it.values()) <= set(DIRECTIONS),
    "reference_point": lambda it: (
        isinstance(it, dict) and all(v is None or is_number(v) for v in it.values())
    ),
    "seeds": lambda it: isinstance(it, int | list),
    "n_trials": lambda it: isinstance(it, int),
    "constraints": lambda it: isinstance(it, list),
    "rows": lambda it: isinstance(it, dict) and all(isinstance(v, dict) for v in it.values()),
    "paper": lambda it: isinstance(it, dict),
    "methods": lambda it: isinstance(it, dict),
    "questions": lambda it: isinstance(it, list) and all(isinstance(v, dict) for v in it),
}
BASELINE = "baseline"  # the folder of the trials that were run again from labels alone


def load_sweep(directory: Path) -> Sweep:
    """Read the sweep, or the plain runs, below `directory`.

    What cannot be read is named in the sweep's `damaged`; the rest is as it stands.

    Raises:
        FileNotFoundError: there is neither sweep.yaml nor a trial nor a record below it.
    """
    folders = sorted(filter(_is_trial, (directory / "trials").glob("*")))
    if not (directory / SWEEP_NAME).exists() and not folders:
        return _load_runs(directory)
    spec, damaged = _read_spec(directory / SWEEP_NAME)
    objectives = spec.get("objectives") or DEFAULT_OBJECTIVES
    num_seeds = _num_seeds(spec.get("seeds"))
    loaded = [_load_trial(folder, num_seeds, tuple(objectives)) for folder in folders]
    beside = sorted(filter(_is_trial, (directory / BASELINE).glob("*")))
    baselines = [_load_trial(folder, num_seeds, tuple(objectives)) for folder in beside]
    return Sweep(
        directory=directory,
        name=str(spec.get("name") or directory.name),
        objectives=objectives,
        trials=tuple(sorted((trial for trial, _ in loaded), key=lambda trial: trial.number)),
        reference_point=spec.get("reference_point") or {},
        n_trials=spec.get("n_trials"),
        command=spec.get("command"),
        constraints=tuple(constraints.parse(spec.get("constraints") or [])[0]),
        spec=spec,
        damaged=(
            *damaged,
            *(line for _, lines in [*loaded, *baselines] for line in lines),
            *_lacking([run for trial, _ in loaded for run in trial.runs]),
        ),
        baselines=tuple(trial for trial, _ in baselines),
    )


def _is_trial(folder: Path) -> bool:
    """Whether something of a trial is there; its name is its number."""
    try:
        return folder.name.isdigit() and any(
            not each.name.startswith(".") for each in folder.iterdir()
        )
    except OSError:  # no folder, or one that is not ours to read: the trial's reading says so
        return True


def _read_spec(path: Path) -> tuple[dict[str, Any], list[str]]:
    """What sweep.yaml says, {} where that cannot be read; and what is wrong with it."""
    instead = "; the objectives are taken to be " + " and ".join(DEFAULT_OBJECTIVES)
    try:
        spec: Any = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        return {}, [f"{path} is missing{instead}"]
    except OSError as error:
        return {}, [f"{path} cannot be read ({error.strerror}){instead}"]
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:120]
        return {}, [f"{path} is damaged ({reason}){instead}"]
    if not isinstance(spec, dict):
        return {}, [f"{path} is damaged: it holds no settings{instead}"]
    problems = []
    for key, is_right in SPEC_TYPES.items():
        if spec.get(key) is not None and not is_right(spec[key]):
            problems.append(f"{path}: {key} is {str(spec.pop(key))[:60]}")
    if not spec.get("objectives"):
        problems.append(
            f"{path} must name its objectives, e.g. {{val_accuracy: maximize}}{instead}"
        )
    return spec, problems


def _num_seeds(seeds: Any) -> int:
    return len(seeds) if isinstance(seeds, list) else int(seeds or 1)


def _load_trial(
    directory: Path, num_seeds: int, objectives: tuple[str, ...]
) -> tuple[Trial, list[str]]:
    """The trial, as far as it can be read, and what cannot."""
    damaged = []
    try:
        proposal = read_proposal(directory)
    except (FileNotFoundError, ValueError) as error:
        gone = isinstance(error, FileNotFoundError)
        damaged.append(f"{directory / PROPOSAL_NAME} is missing" if gone else str(error))
        proposal = {"params": {}}
    folders = sorted(directory.glob("seed-*"), key=lambda path: (len(path.name), path.name))
    runs = tuple(Run(folder, _record(folder)) for folder in folders or [directory])
    for run in runs:
        damaged += damage(run.directory)
    trial = Trial(
        number=proposal.get("number", int(directory.name)),
        directory=directory,
        params=proposal["params"],
        runs=runs,
        num_seeds=num_seeds if folders else 1,
        label=proposal.get("label"),
        objectives=objectives,
        origin=proposal.get("origin"),
    )
    return trial, damaged


def _lacking(runs: Sequence[Run]) -> Iterator[str]:
    """The completed runs without a file that others have."""
    done = [run for run in runs if run.record and run.record.status == "completed"]
    for name in (METRICS_NAME, EVALUATION_NAME, PREDICTIONS_NAME):
        without = [run for run in done if not os.path.lexists(run.directory / name)]
        if len(without) < len(done):
            yield from (f"{run.directory / name} is missing" for run in without)


def _record(directory: Path) -> RunRecord | None:
    """The record; None while there is none; a failed one where it cannot be read.

    What an export measured on the files that ship stands among its metrics and costs.
    """
    try:
        record = read_record(directory)
    except FileNotFoundError:
        return None
    except ValueError as error:
        return RunRecord(status="failed", config={}, seed=0, error=str(error))
    try:
        exported = read_exported(directory)
    except ValueError:  # named in `damaged`
        exported = {}
    record.metrics.update(exported.get("metrics", {}))
    record.costs.update(exported.get("costs", {}))
    return record


def _load_runs(directory: Path) -> Sweep:
    """A folder of plain runs: each is a trial of its own."""
    found = sorted(path.parent for path in directory.rglob(RECORD_NAME))
    if not found:
        raise FileNotFoundError(
            f"{directory} has no {SWEEP_NAME} and no {RECORD_NAME} below it; "
            "give the folder of a sweep or of runs, e.g. outputs/sweeps/NAME"
        )
    started = {path.parent for path in directory.rglob(CONFIG_NAME)} | set(found)
    runs = [Run(folder, _record(folder)) for folder in sorted(started)]
    params = described([run.record.config if run.record else {} for run in runs])
    return Sweep(
        directory=directory,
        name=directory.name,
        objectives=DEFAULT_OBJECTIVES,
        trials=tuple(
            Trial(
                number=number,
                directory=run.directory,
                params=settings,
                runs=(run,),
                label=run.directory.relative_to(directory).as_posix(),
            )
            for number, (run, settings) in enumerate(zip(runs, params, strict=True))
        ),
        damaged=tuple(line for run in runs for line in damage(run.directory)),
        plain_runs=True,
    )
