"""A ledger's lines as data: `ledger.json`, of which the documentation's table is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_research.records.record import write_json
from kd_research.report.ledger import entries
from kd_research.report.ranking import ranking
from kd_research.report.sweep import Sweep, Trial
from kd_research.report.verdicts import half_width

# What a command says of this machine and not of the rows.
PLACES = ("output_dir", "dataset.root", "tracking", "sweep.workers", "sweeps", "hydra")


def write_ledger_data(sweep: Sweep) -> Path | None:
    """Write ledger.json into the sweep's folder; None where no row has a published number."""
    if not any(row.get("expected") for row in (sweep.spec.get("rows") or {}).values()):
        return None
    path = sweep.directory / "ledger.json"
    write_json(path, ledger_data(sweep, sweep.spec))
    return path


def ledger_data(sweep: Sweep, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep's name, what was typed beside its name, commit and device, and its rows.

    A row has `row`, `metric`, `published`, `ours` (of each seed), `half_width` (of the 95 % t
    interval; None of a single seed), `tolerance`, `verdict`, `selection` and `hours`: of all its
    runs by the clock, one after the other, with the teachers that were trained for them. Where
    the paper states a `ranking`, that is there too: what `Ranking` has.
    """
    ranked = ranking(sweep, spec)
    trials = {trial.label: trial for trial in sweep.trials}
    known = [
        run.record.provenance
        for trial in sweep.trials
        for run in trial.runs
        if run.record is not None
    ]
    commits = sorted({(each.get("git") or {}).get("commit") or "" for each in known} - {""})
    devices = sorted({str(each.get("device") or "") for each in known} - {""})
    return {
        "sweep": sweep.name,
        "typed": _typed(sweep.command or ""),
        "commits": [commit[:7] for commit in commits],
        "devices": devices,
        "rows": [
            {
                "row": entry.label,
                "metric": entry.metric,
                "published": entry.published,
                "ours": list(entry.ours),
                "half_width": half_width(entry.ours),
                "tolerance": entry.tolerance,
                "verdict": entry.verdict,
                "selection": entry.selection,
                "hours": hours(trials.get(entry.label)),
            }
            for entry in entries(sweep, spec)
        ],
        **({"ranking": ranked.to_dict()} if ranked else {}),
    }


def hours(trial: Trial | None) -> float:
    """Of all runs of a row by the clock."""
    if trial is None:
        return 0.0
    seconds = (record.provenance.get("seconds") or 0.0 for record in trial.records)
    return sum(seconds) / 3600


def _typed(command: str) -> list[str]:
    """The overrides of a command that are of no machine."""
    words = [word for word in command.split() if "=" in word]
    return [word for word in words if not word.lstrip("+'\"").startswith(PLACES)]
