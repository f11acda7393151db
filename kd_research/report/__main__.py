"""The command line of the report: `python -m kd_research.report DIR [OTHER]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from kd_research.records.printable import printable
from kd_research.records.printing import print_safely
from kd_research.records.record import RECORD_NAME
from kd_research.report import compare_sweeps, load_sweep, write_report
from kd_research.report.figure import write_figure
from kd_research.report.paired import compare_runs, sentences
from kd_research.report.text import latex_table, markdown_table

DESCRIPTION = """\
Tables, Pareto front and one HTML page from the records of a sweep or of a folder of runs; of two
sweeps or two runs, how they compare. Only files are read: it works at any time, also while the
sweep runs.
"""


def main(arguments: list[str] | None = None) -> int:
    """Write and print the report of a folder; the exit code is 2 where that is impossible.

    It is 1 where the tables are printed, but a file of the report could not be written.
    """
    parser = argparse.ArgumentParser(prog="python -m kd_research.report", description=DESCRIPTION)
    parser.add_argument("directory", type=Path, help="outputs/sweeps/NAME, or a folder of runs")
    parser.add_argument(
        "other",
        type=Path,
        nargs="?",
        help="a second one, to compare with: two sweeps, or two runs (McNemar's test)",
    )
    parser.add_argument(
        "--format",
        choices=("terminal", "markdown", "latex"),
        default="terminal",
        help="how the front is printed; latex needs the booktabs package",
    )
    parser.add_argument(
        "--figure", type=Path, help="also draw the front for a paper: a .svg, .pdf or .png file"
    )
    parser.add_argument(
        "--remeasure",
        action="store_true",
        help="first measure the costs of all completed runs again, one after the other",
    )
    parser.add_argument(
        "--trust", action="store_true", help="with --remeasure: run whatever code the folders name"
    )
    given = parser.parse_args(arguments)
    try:
        if given.other and all(
            (folder / RECORD_NAME).is_file() for folder in (given.directory, given.other)
        ):
            pairs = compare_runs(given.directory, given.other)
            print(printable("\n".join(sentences(pairs, (given.directory.name, given.other.name)))))
            return 0
        if given.other:
            compare_sweeps(given.directory, given.other)
            return 0
        if given.remeasure:
            _remeasure(given.directory, given.trust)
        summary = write_report(given.directory)
        if given.figure:
            write_figure(summary.sweep, given.figure)
    except (OSError, ValueError) as error:
        print(printable(error), file=sys.stderr)
        return 2
    if given.format == "terminal":
        summary.print()
    else:
        table = markdown_table if given.format == "markdown" else latex_table
        print(printable(table(summary.sweep)))
        if summary.unwritten:
            print(printable("\n".join(summary.unwritten)), file=sys.stderr)
    return 1 if summary.unwritten else 0


def _remeasure(directory: Path, trusted: bool) -> None:
    """In a process of its own: it needs torch, and a report does not."""
    sweep = load_sweep(directory)
    trials = [trial for trial in sweep.trials if trial.state == "completed"]
    trials += [trial for trial in sweep.baselines if trial.state == "completed"]
    runs = [str(run.directory) for trial in trials for run in trial.runs]
    command = [sys.executable, "-m", "kd_research.remeasure", *runs, *(["--trust"] * trusted)]
    if runs and subprocess.run(command, check=False).returncode:
        raise ValueError("some runs were not measured again; the report is as it was")


if __name__ == "__main__":
    print_safely()
    sys.exit(main())
