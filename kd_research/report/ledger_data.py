"""A ledger's lines as data: `ledger.json`, of which the documentation's table is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_research.records.record import write_json
from kd_research.records.spent import spent
from kd_research.report.best_of import best_of
from kd_research.report.ledger import claims, entries, is_of_a_paper, unpublished
from kd_research.report.ranking import ranking
from kd_research.report.setup import commit_of
from kd_research.report.sweep import Sweep, Trial
from kd_research.report.verdicts import half_width, of_other_rows

# What a command says of this machine and not of the rows.
PLACES = ("output_dir", "dataset.root", "tracking", "sweep.workers", "sweeps", "hydra")


def write_ledger_data(sweep: Sweep) -> Path | None:
    """Write ledger.json into the sweep's folder; None where it is of no paper."""
    if not is_of_a_paper(sweep.spec):
        return None
    path = sweep.directory / "ledger.json"
    write_json(path, ledger_data(sweep, sweep.spec))
    return path


def ledger_data(sweep: Sweep, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep's name, what was typed beside its name, commit and device, and its rows.

    A row has `row`, `metric`, `published`, `ours` (of each seed), `half_width` (of the 95 % t
    interval; None of a single seed), `tolerance`, `verdict`, `selection` and `hours`: of all its
    runs by the clock, one after the other, with what they made themselves. `preparation_hours`
    are those before the trials: of the data, and of the first run's teacher and transfer set.
    Where the paper states them, there are `best_of` (rows like these), `claims` (text and verdict)
    and `ranking` (what `Ranking` has). `unpublished` are the rows without a published number.
    """
    ranked = ranking(sweep, spec)
    trials = {trial.label: trial for trial in sweep.trials}
    known = [run.record for trial in sweep.trials for run in trial.runs if run.record is not None]
    commits = sorted({commit for each in known if (commit := commit_of(each, 7))})
    devices = sorted({str(each.provenance.get("device") or "") for each in known} - {""})
    return {
        "sweep": sweep.name,
        "typed": _typed(sweep.command or ""),
        "commits": commits,
        "devices": devices,
        "preparation_hours": spent(sweep.directory) / 3600,
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
        "best_of": [
            {
                "row": f"{one.text}: best of {one.num_settings} settings",
                "metric": one.metric,
                "published": one.published,
                "ours": list(one.ours),
                "half_width": half_width(one.ours),
                "chosen": one.chosen,
                "best": one.best,
                "verdict": one.verdict,
            }
            for one in best_of(sweep, spec, of_other_rows(sweep, spec))
        ],
        "unpublished": [
            {
                "row": label,
                "metric": metric,
                "ours": list(found),
                "half_width": half_width(found),
                "verdict": said,
                "hours": hours(trials.get(label)),
            }
            for label, measured, said in unpublished(sweep, spec)
            for metric, found in measured.items()
        ],
        "claims": [{"text": text, "verdict": said} for text, said in claims(sweep, spec)],
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
