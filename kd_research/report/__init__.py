"""Records -> tables, the Pareto front and one self-contained HTML page.

    python -m kd_research.report outputs/sweeps/NAME

Only the files of the folder are read, so a report can be written at any time, also while the
sweep runs and on a machine without a GPU. What it writes: trials.csv and trials.parquet (one row
per seed), front.csv (one row per trial), report.md, report.html and summary.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_research.records.printable import printable
from kd_research.records.record import read_text, write_json, write_text
from kd_research.report import tables, text
from kd_research.report.answers import write_answers
from kd_research.report.compare import Comparison, compare, render_comparison, to_markdown
from kd_research.report.data import write_parquet
from kd_research.report.ledger import write_ledger
from kd_research.report.ledger_data import write_ledger_data
from kd_research.report.load import load_sweep
from kd_research.report.methods import write_methods
from kd_research.report.page import render
from kd_research.report.sweep import Sweep
from kd_research.report.terminal import print_markdown, print_table

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
        unwritten: the files that could not be written, and why, a line each.
    """

    sweep: Sweep
    counts: dict[str, int]
    hypervolume: float | None
    best: dict[str, dict[str, Any]]
    page: Path
    ledger: Path | None = None
    methods: Path | None = None
    answers: Path | None = None
    unwritten: tuple[str, ...] = ()

    def print(self) -> None:
        """Print the front, the facts, and where to look next."""
        text.print_summary(self.sweep)
        for written in (self.ledger, self.methods, self.answers):
            if written:
                print()
                print_markdown(read_text(written), written.parent)
                print(printable(written))
        if self.unwritten:
            print(printable("\n".join(self.unwritten)))


def write_report(directory: Path) -> Summary:
    """Read the folder of a sweep or of plain runs and write its report into it.

    What cannot be written, as into a colleague's folder or on a full disk, is named in the
    summary's `unwritten`.

    Raises:
        FileNotFoundError: there is neither sweep.yaml nor a trial nor a record below it.
    """
    sweep = load_sweep(directory)
    found = tables.summary(sweep)
    unwritten: list[str] = []

    def written(name: str, write: Callable[[Path], Any]) -> Any:
        try:
            return write(directory / name)
        except OSError as error:
            unwritten.append(f"{directory / name} was not written ({error.strerror or error})")
            return None

    rows = tables.trial_rows(sweep)
    written("trials.csv", lambda path: write_text(path, tables.to_csv(rows)))
    written("trials.parquet", lambda path: write_parquet(path, rows))
    front = tables.to_csv(tables.front_rows(sweep))
    written("front.csv", lambda path: write_text(path, front))
    written("report.md", lambda path: write_text(path, text.to_markdown(sweep)))
    written("summary.json", lambda path: write_json(path, found))
    ledger = written("ledger.md", lambda _: write_ledger(sweep))
    written("ledger.json", lambda _: write_ledger_data(sweep))
    methods = written("methods.md", lambda _: write_methods(sweep))
    answers = written("answers.md", lambda _: write_answers(sweep))
    pages = [page for page in (methods, ledger, answers) if page]
    written("report.html", lambda path: write_text(path, render(sweep, pages)))
    return Summary(
        sweep,
        found["counts"],
        found["hypervolume"],
        found["best"],
        directory / "report.html",
        ledger,
        methods,
        answers,
        tuple(unwritten),
    )


def compare_sweeps(one: Path, other: Path) -> Comparison:
    """Print how two sweeps compare; write compare-OTHER.html and .md into the first's folder.

    Raises:
        FileNotFoundError, ValueError: as `write_report`, or the objectives differ.
    """
    found = compare(load_sweep(one), load_sweep(other))
    page = one / f"compare-{found.other.directory.resolve().name}.html"
    lines = [*found.facts(), f"page: {page}"]
    try:
        write_text(page, render_comparison(found))
        write_text(page.with_suffix(".md"), to_markdown(found))
    except OSError as error:
        lines[-1] = f"{page} was not written ({error.strerror or error})"
    print_table("front of both together", *found.table(), lines)
    return found
