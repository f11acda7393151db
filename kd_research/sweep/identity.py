"""Whose a folder is: nothing is taken for something else because its number or name agrees.

A sweep's folder holds the sweep's fingerprint; each trial's proposal.json says of which sweep it
is, and what was proposed; each record holds the configuration that was run. All three are compared
before a record is told to a proposal, whatever was deleted, copied, renamed or changed meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kd_research.configuration.config import ConfigError
from kd_research.configuration.environment import writable
from kd_research.records.record import (
    PROPOSAL_NAME,
    RECORD_NAME,
    RunRecord,
    finite,
    read_text,
    write_json,
)
from kd_research.report.damage import read_proposal
from kd_research.sweep.plan import FREE_KEYS, Plan, digest

FINGERPRINT_NAME = "fingerprint.json"  # in a sweep's folder: what its trials have in common
NOT_RUN = (*FREE_KEYS, "sweep", "sampler")  # what a record's configuration may say otherwise


def check_folder(plan: Plan) -> None:
    """Refuse a folder of another sweep, before anything is written, and whatever its study says.

    Raises:
        ConfigError: it holds a sweep with other settings.
    """
    path = plan.directory / FINGERPRINT_NAME
    try:
        known = json.loads(read_text(path))
    except FileNotFoundError:
        return
    except ValueError:
        raise ConfigError(
            [f"{path} is damaged; choose another name, as in sweep.name=mine"]
        ) from None
    plan.refuse_other(known)


def claim_folder(plan: Plan) -> None:
    """Write the sweep's fingerprint into its folder."""
    write_json(plan.directory / FINGERPRINT_NAME, plan.fingerprint())


def proposed(plan: Plan) -> list[int]:
    """The numbers of the trials that the folder holds."""
    found = (plan.directory / "trials").glob(f"*/{PROPOSAL_NAME}")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def proposal(plan: Plan, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial's proposal.json says: what it is, of which sweep, and what is searched."""
    label, settings = plan.composition.described(params)
    return {
        "number": number,
        "label": label,
        "params": settings,
        "asked": dict(params),
        "sweep": plan.mark,
    }


def check_proposal(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a trial's folder has its proposal.json already, which must be this very proposal's.

    Raises:
        ConfigError: the folder is of another trial, or nobody knows of which.
    """
    advice = (
        "move it away and type the same command, or have the study rebuilt from the folders: "
        "sweep.rebuild=true"
    )
    try:
        found = read_proposal(folder)
    except FileNotFoundError:
        records = [folder / RECORD_NAME, *folder.glob(f"seed-*/{RECORD_NAME}")]
        if any(path.exists() for path in records):
            raise ConfigError(
                [f"{folder} holds a record without {PROPOSAL_NAME}: of which trial? {advice}"]
            ) from None
        return False
    except ValueError as error:
        raise ConfigError([f"{error}; {advice}"]) from None
    plain = json.loads(json.dumps(dict(wanted)))
    differing = [key for key in plain if key in found and found[key] != plain[key]]
    if differing == ["sweep"]:
        raise ConfigError([f"{folder} holds a trial of another sweep; {advice}"])
    if differing:
        key = differing[0]
        raise ConfigError(
            [
                f"{folder} holds another trial than its study has under that number: its {key} is "
                f"{found[key]}, not {plain[key]}; {advice}"
            ]
        )
    return True


def propose(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Write a trial's proposal.json, if its folder does not have it already.

    Raises:
        ConfigError: the folder is of another trial.
    """
    if not check_proposal(folder, wanted):
        write_json(folder / PROPOSAL_NAME, wanted)


def run_digest(config: DictConfig | Mapping[str, Any]) -> str:
    """What names a run: its configuration but for where and how visibly it ran."""
    plain = writable(config) if isinstance(config, DictConfig) else config
    return digest(finite({key: value for key, value in plain.items() if key not in NOT_RUN}))


def check_record(record: RunRecord, path: Path, wanted: str | None) -> None:
    """Refuse a record of another run than the folder's.

    Raises:
        ConfigError: it was made by another configuration.
    """
    closed = record.status == "failed" and record.config.keys() <= {"seed"}  # by its sweep
    if wanted is None or closed:
        return
    if run_digest(record.config) != wanted:
        raise ConfigError(
            [
                f"{path / RECORD_NAME} was made by another configuration than the trial's: it was "
                "copied or changed; remove it, and the same command runs the trial again"
            ]
        )


def teacher_marks(records: Sequence[RunRecord]) -> dict[str, str]:
    """Name of a teacher (its settings and its file) -> the fingerprint of its weights."""
    marks = {}
    for record in records:
        path = record.provenance.get("teacher_path")
        if path:
            name = digest([record.config.get("teacher"), path])
            marks[f"teacher {name}"] = str(record.provenance.get("teacher_fingerprint"))
    return marks


def check_teachers(known: Mapping[str, Any], records: Sequence[RunRecord], number: int) -> None:
    """Refuse a trial whose teacher has other weights than the same one had before in the sweep.

    Raises:
        ConfigError: its file was replaced or damaged meanwhile.
    """
    for name, mark in teacher_marks(records).items():
        if known.get(name, mark) != mark:
            path = next(iter(r.provenance["teacher_path"] for r in records if r.provenance))
            raise ConfigError(
                [
                    f"trial {number} learned from other weights than the trials before it: {path} "
                    "was replaced or damaged meanwhile; bring it back, remove the trial's "
                    f"{RECORD_NAME}, and type the same command; or choose another sweep.name"
                ]
            )
