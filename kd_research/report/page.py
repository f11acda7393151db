"""report.html: one file with the data, the scripts and plotly.js in it, and no network.

plotly.js is 4.8 MB; gzipped and in base64 it is 2 MB, and the browser unpacks it in about 0.1 s.
The page forbids itself every connection by its Content-Security-Policy.
"""

from __future__ import annotations

import base64
import functools
import gzip
import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from kd_research.report.baseline import baseline, gain
from kd_research.report.blocks import blocks
from kd_research.report.curves import evaluations, learning_curves
from kd_research.report.importances import importances
from kd_research.report.methods import tuning_curves
from kd_research.report.setup import setup
from kd_research.report.sweep import Sweep
from kd_research.report.tables import best, rerun
from kd_research.report.text import lent

SCRIPTS = (
    "common.js",
    "page.js",
    "front.js",
    "charts.js",
    "samples.js",
    "said.js",
    "table.js",
    "start.js",
)


def render(sweep: Sweep, pages: Sequence[Path] = ()) -> str:
    """The page of a sweep, as text.

    Args:
        sweep: its trials.
        pages: Markdown of what the sweep was made to say: a ledger, a comparison, answers.
    """
    content = {**page_data(sweep), "said": blocks(pages), "tuning": tuning_curves(sweep)}
    return fill("page.html", sweep.name, content, SCRIPTS)


def fill(template: str, title: str, content: dict[str, Any], scripts: Sequence[str]) -> str:
    """An asset's HTML with style, data, scripts and plotly.js put in."""
    assets = files("kd_research.report") / "assets"
    # "</" inside a script element would end it; "<!--" would open a comment.
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title),
        "css": (assets / "page.css").read_text("utf-8"),
        "plotly": _packed_plotly(),
        "js": "\n".join((assets / name).read_text("utf-8") for name in scripts),
        "data": data,
    }
    page = (assets / template).read_text("utf-8")
    pieces = re.split(r"<!--(\w+)-->", page)
    return "".join(parts[p] if k % 2 else p for k, p in enumerate(pieces))


def made() -> str:
    """When the page was written, for its last line."""
    return f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."


def page_data(sweep: Sweep) -> dict[str, Any]:
    """Everything that the page shows, column by column; floats to six digits."""
    trials = sweep.trials
    front = {trial.number for trial in sweep.front}
    stds = {name: [short(trial.std(name)) for trial in trials] for name in sweep.value_names}
    return {
        "name": sweep.name,
        "made": made(),
        "command": sweep.command,
        "objectives": list(sweep.objectives.items()),
        "directions": {name: sweep.direction_of(name) for name in sweep.value_names},
        "reference_point": dict(sweep.reference_point),
        "counts": sweep.counts,
        "n_trials": sweep.n_trials,
        "hypervolume": sweep.hypervolume,
        "hypervolume_share": sweep.hypervolume_share,
        "setup": setup(sweep),
        "searched": {
            str(key).lstrip("+"): str(how) for key, how in (sweep.spec.get("space") or {}).items()
        },
        "history": [short(value) for value in sweep.hypervolume_history or []],
        "importances": {name: asdict(found) for name, found in importances(sweep).items()},
        "curves": learning_curves(sweep),
        "evaluations": evaluations(sweep),
        "best": best(sweep),
        "gain": gain(sweep),
        "lent": lent(sweep),
        "baseline": _baseline(sweep),
        "teachers": sweep.teachers,
        "params": sweep.param_names,
        "values": sweep.value_names,
        "trials": {
            "number": [trial.number for trial in trials],
            "label": [trial.label for trial in trials],
            "state": [trial.state for trial in trials],
            "front": [trial.number in front for trial in trials],
            "undistilled": [trial.undistilled for trial in trials],
            "n": [len(trial.records) for trial in trials],
            "error": [trial.error for trial in trials],
            "rerun": [rerun(trial) for trial in trials],
            "directory": [t.directory.relative_to(sweep.directory).as_posix() for t in trials],
            "params": {
                name: [short(trial.params.get(name)) for trial in trials]
                for name in sweep.param_names
            },
            "mean": {
                name: [short(trial.mean(name)) for trial in trials] for name in sweep.value_names
            },
            "std": {name: values for name, values in stds.items() if any(values)},
        },
    }


def _baseline(sweep: Sweep) -> dict[str, Any] | None:
    """The student from labels alone; None where there is none, or it is a trial of the page."""
    plain = baseline(sweep)
    if plain is None or plain in sweep.trials:
        return None
    return {
        "of": plain.number,
        "n": len(plain.records),
        "rerun": rerun(plain),
        "params": {name: short(value) for name, value in plain.params.items()},
        "mean": {name: short(plain.mean(name)) for name in sweep.value_names},
        "std": {name: short(plain.std(name)) for name in sweep.value_names},
    }


def short(value: Any) -> Any:
    """A number to six digits, a container as text; JSON has no NaN."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@functools.cache
def _packed_plotly() -> str:
    from plotly.offline import get_plotlyjs  # 0.1 s that a report of errors need not wait for

    level = 5  # 1 % larger than by 9, in half the time
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), level, mtime=0)).decode()
