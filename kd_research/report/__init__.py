"""Records -> tables, the Pareto front and one self-contained HTML page.

    python -m kd_research.report outputs/sweeps/NAME

Only the files of the folder are read, so a report can be written at any time, also while the
sweep runs and on a machine without a GPU. What it writes: trials.csv and trials.parquet (one row
per seed), front.csv (one row per trial), report.md, report.html and summary.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_research.records.record import write_json, write_text
from kd_research.report import tables, text
from kd_research.report.answers import write_answers
from kd_research.report.compare import Comparison, compare, render_comparison, to_markdown
from kd_research.report.data import write_parquet
from kd_research.report.ledger import write_ledger
from kd_research.report.load import load_sweep
from kd_research.report.methods import write_methods
from kd_research.report.page import render
from kd_research.report.sweep import Sweep

__all__ = ["Summary", "Sweep", "compare_sweeps", "load_sweep", "write_report"]


@dataclass(frozen=True)
class Summary:
    """What a report found, as in summary.json.

    Attributes:
        sweep: the trials and the front, read from the folder.
        counts: trials by state: completed, running, failed, pruned.
        hypervolume: None without a complete reference point.
        best: objective -> {"trial", "value", "params", "directory"}.
        page: the path of report.html.
        ledger: the path of ledger.md, where the sweep has rows of a paper.
        methods: the path of methods.md, where it compares methods.
        answers: the path of answers.md, where it asks questions.
    """

    sweep: Sweep
    counts: dict[str, int]
    hypervolume: float | None
    best: dict[str, dict[str, Any]]
    page: Path
    ledger: Path | None = None
    methods: Path | None = None
    answers: Path | None = None

    def print(self) -> None:
        """Print the front, the facts, and where to look next."""
        text.print_summary(self.sweep)
        for written in (self.ledger, self.methods, self.answers):
            if written:
                print(f"\n{written.read_text()}\n{written}")


def write_report(directory: Path) -> Summary:
    """Read the folder of a sweep or of plain runs and write its report into it.

    Raises:
        FileNotFoundError: there is neither sweep.yaml nor a record below it.
        ValueError: sweep.yaml names no objectives.
    """
    sweep = load_sweep(directory)
    found = tables.summary(sweep)
    write_text(directory / "trials.csv", tables.to_csv(tables.trial_rows(sweep)))
    write_parquet(directory / "trials.parquet", tables.trial_rows(sweep))
    write_text(directory / "front.csv", tables.to_csv(tables.front_rows(sweep)))
    write_text(directory / "report.md", text.to_markdown(sweep))
    page = directory / "report.html"
    write_text(page, render(sweep))
    write_json(directory / "summary.json", found)
    counts, volume, leaders = found["counts"], found["hypervolume"], found["best"]
    written = write_ledger(sweep), write_methods(sweep), write_answers(sweep)
    return Summary(sweep, counts, volume, leaders, page, *written)


def compare_sweeps(one: Path, other: Path) -> Comparison:
    """Print how two sweeps compare; write compare-OTHER.html and .md into the first's folder.

    Raises:
        FileNotFoundError, ValueError: as `write_report`, or the objectives differ.
    """
    found = compare(load_sweep(one), load_sweep(other))
    page = one / f"compare-{found.other.directory.resolve().name}.html"
    write_text(page, render_comparison(found))
    write_text(page.with_suffix(".md"), to_markdown(found))
    text.print_table("front of both together", *found.table(), [*found.facts(), f"page: {page}"])
    return found
