"""Reads the folder of a sweep, or of plain runs, back into memory.

Only files are read (sweep.yaml, proposal.json, record.json, metrics.jsonl): neither the study nor
a model is opened, and a sweep that is still running reads as far as it has come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kd_research.configuration import constraints
from kd_research.records.record import (
    CONFIG_NAME,
    EXPORT_NAME,
    PROPOSAL_NAME,
    RECORD_NAME,
    SWEEP_NAME,
    RunRecord,
    read_record,
)
from kd_research.report.sweep import Run, Sweep, Trial

DEFAULT_OBJECTIVES = {"val_accuracy": "maximize", "num_params": "minimize"}
NOT_SETTINGS = ("seed", "output_dir", "tracking.", "sweep.", "sampler.", "hydra.")


def load_sweep(directory: Path) -> Sweep:
    """Read the sweep, or the plain runs, below `directory`.

    Raises:
        FileNotFoundError: there is neither sweep.yaml nor a record below it.
        ValueError: sweep.yaml names no objectives.
    """
    path = directory / SWEEP_NAME
    if not path.is_file():
        return _load_runs(directory)
    spec: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    objectives = (spec or {}).get("objectives")
    if not isinstance(objectives, dict) or not objectives:
        raise ValueError(f"{path} must name its objectives, e.g. {{val_accuracy: maximize}}")
    num_seeds = _num_seeds(spec.get("seeds"))
    folders = sorted((directory / "trials").glob(f"*/{PROPOSAL_NAME}"))
    return Sweep(
        directory=directory,
        name=str(spec.get("name") or directory.name),
        objectives=objectives,
        trials=tuple(
            sorted(
                (_load_trial(folder.parent, num_seeds, tuple(objectives)) for folder in folders),
                key=lambda trial: trial.number,
            )
        ),
        reference_point=spec.get("reference_point") or {},
        n_trials=spec.get("n_trials"),
        command=spec.get("command"),
        constraints=tuple(constraints.parse(spec.get("constraints") or [])[0]),
    )


def _num_seeds(seeds: Any) -> int:
    return len(seeds) if isinstance(seeds, list) else int(seeds or 1)


def _load_trial(directory: Path, num_seeds: int, objectives: tuple[str, ...]) -> Trial:
    proposal = json.loads((directory / PROPOSAL_NAME).read_text())
    folders = sorted(directory.glob("seed-*"), key=lambda path: (len(path.name), path.name))
    return Trial(
        number=int(proposal["number"]),
        directory=directory,
        params=proposal.get("params") or {},
        runs=tuple(Run(folder, _record(folder)) for folder in folders or [directory]),
        num_seeds=num_seeds if folders else 1,
        label=proposal.get("label"),
        objectives=objectives,
    )


def _record(directory: Path) -> RunRecord | None:
    """The record; None while there is none; a failed one where it cannot be read.

    What an export measured on the files that ship stands among its metrics and costs.
    """
    try:
        record = read_record(directory)
        path = directory / EXPORT_NAME
        exported = json.loads(path.read_text()) if path.is_file() else {}
        record.metrics.update(exported.get("metrics", {}))
        record.costs.update(exported.get("costs", {}))
        return record
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        return RunRecord(status="failed", config={}, seed=0, error=str(error))


def _load_runs(directory: Path) -> Sweep:
    """A folder of plain runs: each is a trial, its settings are what differs between them."""
    found = sorted(path.parent for path in directory.rglob(RECORD_NAME))
    if not found:
        raise FileNotFoundError(
            f"{directory} has no {SWEEP_NAME} and no {RECORD_NAME} below it; "
            "give the folder of a sweep or of runs, e.g. outputs/sweeps/NAME"
        )
    started = {path.parent for path in directory.rglob(CONFIG_NAME)} | set(found)
    runs = [Run(folder, _record(folder)) for folder in sorted(started)]
    configs = [flat(run.record.config) if run.record else {} for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    read = [config for config in configs if config]
    varied = [
        name
        for name in names
        if not name.startswith(NOT_SETTINGS)
        and any(config.get(name) != read[0].get(name) for config in read)
    ]
    return Sweep(
        directory=directory,
        name=directory.name,
        objectives=DEFAULT_OBJECTIVES,
        trials=tuple(
            Trial(
                number=number,
                directory=run.directory,
                params={name: config[name] for name in varied if name in config},
                runs=(run,),
                label=run.directory.relative_to(directory).as_posix(),
            )
            for number, (run, config) in enumerate(zip(runs, configs, strict=True))
        ),
    )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
