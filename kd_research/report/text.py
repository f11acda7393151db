"""The sweep for people: the terminal, report.md, and a LaTeX table of the front."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kd_research.records.printable import printable
from kd_research.report.baseline import WHO, baseline, gain
from kd_research.report.curves import evaluations
from kd_research.report.sweep import Sweep, Trial
from kd_research.report.tables import best, rerun, show

PLUS_MINUS = "± is the standard deviation over the n seeds of a trial."
MAX_DAMAGED = 5  # files that are named
MAX_TEACHERS = 3  # rows of the table, those of the most trials


def front_table(sweep: Sweep, narrow: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the front for people; n is of seeds.

    The last rows are the references: the baseline, trained from labels alone, and the teachers.

    A narrow table shows the objectives and the settings alone.
    """
    objectives = list(sweep.objectives)
    usual = () if narrow else ("test_accuracy", "teacher_agreement")
    extra = [name for name in usual if name in sweep.value_names]
    values = [*objectives, *(name for name in extra if name not in objectives)]
    names = sweep.param_names
    header = [
        "trial",
        "n",
        *values,
        *(last_word(name, names) for name in names),
    ]
    rows = [
        [
            _who(trial),
            str(len(trial.records)),
            *(show(name, trial.mean(name), trial.std(name)) for name in values),
            *(show(name, trial.params.get(name)) for name in names),
        ]
        for trial in sweep.front
    ]
    plain = baseline(sweep)
    if plain is not None and plain not in sweep.front:
        cells = [show(name, plain.mean(name), plain.std(name)) for name in values]
        known = [show(name, plain.params[name]) if name in plain.params else "" for name in names]
        rows.append([WHO, str(len(plain.records)), *cells, *known])
    for teacher in sweep.teachers[:MAX_TEACHERS]:
        cells = [show(name, teacher[name]) if name in teacher else "" for name in values]
        rows.append(["teacher", "", *cells, *("" for _ in names)])
    return header, rows


def facts(sweep: Sweep) -> list[str]:
    """Counts, hypervolume and failures, a line each."""
    counts = ", ".join(f"{number} {state}" for state, number in sweep.counts.items() if number)
    total = f" of {sweep.n_trials}" if sweep.n_trials else ""
    lines = [f"{len(sweep.trials)}{total} trials: {counts or 'none yet'}"]
    if sweep.hypervolume is None:
        lines.append("hypervolume: not computed, sweep.reference_point is not set")
    else:
        corner = ", ".join(f"{n} {show(n, v)}" for n, v in sweep.reference_point.items())
        lines.append(f"hypervolume: {sweep.hypervolume:.6g} (reference point: {corner})")
    if said := gain(sweep):
        lines.append(said)
    lines += [
        f"the baseline of trial {trial.number} failed: {trial.error or 'no reason recorded'}"
        for trial in sweep.baselines
        if trial.state == "failed"
    ]
    failed = [trial for trial in sweep.trials if trial.state == "failed"]
    lines += [f"trial {t.number} failed: {t.error or 'no reason recorded'}" for t in failed[:3]]
    if len(failed) > 3:
        lines.append(f"and {len(failed) - 3} more failed; trials.csv has every reason")
    running = [str(trial.number) for trial in sweep.trials if trial.state == "running"]
    if running:
        more = f" and {len(running) - 10} more" if len(running) > 10 else ""
        lines.append(f"without a record, running or cut off: {', '.join(running[:10])}{more}")
    lines += sweep.damaged[:MAX_DAMAGED]
    if len(sweep.damaged) > MAX_DAMAGED:
        lines.append(f"and {len(sweep.damaged) - MAX_DAMAGED} more files cannot be read")
    return lines


def next_steps(sweep: Sweep) -> list[str]:
    """Where to look, and how to rerun the best trials."""
    lines = [f"{'the page':<24}{sweep.directory / 'report.html'}"]
    lines.append(f"{'the tables':<24}{sweep.directory / 'trials.csv'}, front.csv, report.md")
    for name, entry in best(sweep).items():
        where = sweep.directory / entry["directory"]
        lines.append(f"{'best ' + name:<24}trial {entry['trial']}: {where}")
    if sweep.front:
        lines.append(f"{'run it again':<24}{rerun(sweep.front[0])}")
    return lines


def to_markdown(sweep: Sweep) -> str:
    """report.md: the facts and the front."""
    objectives = ", ".join(f"{name} ({way})" for name, way in sweep.objectives.items())
    lines = [f"# {sweep.name}", "", f"Objectives: {objectives}.", ""]
    lines += [f"- {fact}" for fact in facts(sweep)]
    lines += ["", f"## Pareto front ({len(sweep.front)} trials)", ""]
    lines += [markdown_table(sweep), "", *_samples(sweep), "## Where to look next", ""]
    lines += [f"- {' '.join(line.split())}" for line in next_steps(sweep)]
    if sweep.command:
        lines += ["", "Made by:", "", f"    {sweep.command}"]
    return "\n".join(lines) + "\n"


def _samples(sweep: Sweep) -> list[str]:
    """What the first trial of the front and its teacher write, if they are language models."""
    found = evaluations(sweep)
    number = next((number for number, known in found.items() if "samples" in known), None)
    if number is None:
        return []
    lines = [f"## What trial {number} writes", ""]
    for sample in found[number]["samples"]:
        for name in ("prompt", "student", "teacher", "text"):
            text = (sample[name] or "-").replace("\n", "\n      ")
            lines += [f"- {name}:", "", f"      {text}", ""]
    return lines


def markdown_table(sweep: Sweep) -> str:
    """The front as a Markdown table, mean ± std over n seeds, which it says."""
    header, rows = front_table(sweep)
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
    return f"{table}\n\n{PLUS_MINUS}" if "±" in table else table


def latex_table(sweep: Sweep) -> str:
    """The front as a LaTeX table for the booktabs package, mean ± std over n seeds."""
    header, rows = front_table(sweep)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in rows]
    references = len(rows) - len(sweep.front)
    if references and sweep.front:
        lines.insert(len(sweep.front), r"\midrule")
    return "\n".join(
        [
            r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}",
            *([f"% {PLUS_MINUS}"] if any(r"\pm" in line for line in lines) else []),
            r"\toprule",
            " & ".join(map(_latex, header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"±": r"$\pm$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}"}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def print_summary(sweep: Sweep, console: Console | None = None) -> None:
    """The front as a table, the facts, and where to look next."""
    console = console or Console()
    header, rows = front_table(sweep, narrow=console.width < 110)
    title = f"{sweep.name}: Pareto front, {len(sweep.front)} of {len(sweep.trials)} trials"
    spread = [PLUS_MINUS] if any("±" in cell for row in rows for cell in row) else []
    lines = [*spread, *facts(sweep), "", "Where to look next", *next_steps(sweep)]
    print_table(title, header, rows, lines, console)


def print_table(
    title: str,
    header: list[str],
    rows: list[list[str]],
    lines: list[str],
    console: Console | None = None,
) -> None:
    """A table in the terminal, and lines below it; the rows of references are dim."""
    console = console or Console()
    table = Table(title=escape(printable(title)), title_justify="left", header_style="bold")
    for column, name in enumerate(header):
        # Broken after "_", so that the table fits a narrow terminal.
        words = printable(name).replace("_", "_\n")
        table.add_column(words, justify="left" if column == 0 else "right", no_wrap=column == 0)
    for row in rows:
        table.add_row(
            *(escape(printable(cell)) for cell in row),
            style="dim" if row[0] in ("teacher", WHO) else None,
        )
    console.print(table)
    for line in lines:
        console.print(escape(printable(line)), soft_wrap=True, highlight=False)


def _who(trial: Trial) -> str:
    return f"{trial.number} {trial.label}" if trial.label else str(trial.number)


def last_word(name: str, names: Iterable[str]) -> str:
    """The last word of a setting where that is clear among all of them."""
    last = name.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in names) == 1 else name
