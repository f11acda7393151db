"""The sweep for people: the terminal, report.md, and a LaTeX table of the front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console

from kd_research.report.baseline import WHO, baseline, gain
from kd_research.report.curves import evaluations
from kd_research.report.numbers import show
from kd_research.report.runs import ALWAYS
from kd_research.report.sweep import Sweep, Trial
from kd_research.report.tables import PLUS_MINUS, best, rerun
from kd_research.report.terminal import print_table

MAX_DAMAGED = 5  # files that are named
MAX_RUNS = 50  # of a folder of single runs, the last
USUAL = ("test_accuracy", "teacher_agreement")  # shown beside the objectives where there is room
SYMBOLS = {"loss.temperature": "T", "loss.lambda": "λ"}  # of the table of runs, which is wide
ON_FRONT = "*"
MAX_TEACHERS = 3  # rows of the table, those of the most trials


def front_table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the front for people; n is of seeds.

    The last rows are the references: the baseline, trained from labels alone, and the teachers.
    """
    objectives = list(sweep.objectives)
    extra = [name for name in USUAL if name in sweep.value_names]
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


def runs_table(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a folder of single runs, in the order of their folders."""
    trials = sweep.trials[-MAX_RUNS:]
    metrics = ("val_accuracy", "test_accuracy", "val_perplexity", "num_params")
    values = [name for name in metrics if any(t.mean(name) is not None for t in trials)]
    first = [name for name in ALWAYS if name in sweep.param_names]
    names = [*first, *(name for name in sweep.param_names if name not in first)]
    words = {name: last_word(name, names) for name in names} | SYMBOLS
    front = {trial.number for trial in sweep.front}
    shared = _shared(trials)
    header = ["run", *(words[name] for name in first), *values]
    rows = []
    for trial in trials:
        mark = f" {ON_FRONT}" if trial.number in front else ""
        cells = [f"{str(trial.label).removeprefix(shared)}{mark}"]
        cells += [show(name, trial.params.get(name)) for name in first]
        cells += [show(name, trial.mean(name)) for name in values]
        if trial.state != "completed" and values:
            cells[1 + len(first)] = trial.state
        cells += [show(name, trial.params.get(name)) for name in names[len(first) :]]
        rows.append(cells)
    return [*header, *(words[name] for name in names[len(first) :])], rows


def _shared(trials: Sequence[Trial]) -> str:
    """The folder that all of these runs lie below, as the day is; "" where there is none."""
    parents = {str(trial.label).rpartition("/")[0] for trial in trials}
    return f"{next(iter(parents))}/" if len(parents) == 1 and parents != {""} else ""


def facts(sweep: Sweep) -> list[str]:
    """Counts, hypervolume and failures, a line each."""
    counts = ", ".join(f"{number} {state}" for state, number in sweep.counts.items() if number)
    total = f" of {sweep.n_trials}" if sweep.n_trials else ""
    kind = "run" if sweep.plain_runs else "trial"
    lines = [f"{len(sweep.trials)}{total} {kind}s: {counts or 'none yet'}"]
    if sweep.plain_runs:
        pass
    elif sweep.hypervolume is None:
        lines.append("hypervolume: not computed, sweep.reference_point is not set")
    else:
        corner = ", ".join(f"{n} {show(n, v)}" for n, v in sweep.reference_point.items())
        share = sweep.hypervolume_share
        of_box = "" if share is None else f", {100 * share:.1f} % of the reference box"
        lines.append(f"hypervolume: {sweep.hypervolume:.6g}{of_box} (reference point: {corner})")
    lines += lent(sweep)
    if said := gain(sweep):
        lines.append(said)
    lines += [
        f"the baseline of trial {trial.number} failed: {trial.error or 'no reason recorded'}"
        for trial in sweep.baselines
        if trial.state == "failed"
    ]
    failed = [trial for trial in sweep.trials if trial.state == "failed"]
    lines += [f"{kind} {_name(t)} failed: {t.error or 'no reason recorded'}" for t in failed[:3]]
    if len(failed) > 3:
        lines.append(f"and {len(failed) - 3} more failed; trials.csv has every reason")
    running = [_name(trial) for trial in sweep.trials if trial.state == "running"]
    if running:
        more = f" and {len(running) - 10} more" if len(running) > 10 else ""
        lines.append(f"without a record, running or cut off: {', '.join(running[:10])}{more}")
    lines += sweep.damaged[:MAX_DAMAGED]
    if len(sweep.damaged) > MAX_DAMAGED:
        lines.append(f"and {len(sweep.damaged) - MAX_DAMAGED} more files cannot be read")
    return lines


def lent(sweep: Sweep) -> list[str]:
    """Which settings are another sweep's, a line each; they were run here, as all others."""
    others: dict[str, list[str]] = {}
    for trial in sweep.trials:
        if trial.lender:
            name = trial.lender.rpartition(", trial ")[0]
            others.setdefault(name, []).append(str(trial.number))
    return [
        f"settings from the sweep {name}, run anew here: trials {', '.join(numbers)}"
        for name, numbers in others.items()
    ]


def next_steps(sweep: Sweep) -> list[str]:
    """Where to look, and how to rerun the best trials."""
    lines = [f"{'the page':<24}{sweep.directory / 'report.html'}"]
    lines.append(f"{'the tables':<24}{sweep.directory / 'trials.csv'}, front.csv, report.md")
    for name, entry in best(sweep).items():
        where = sweep.directory / entry["directory"]
        who = "" if sweep.plain_runs else f"trial {entry['trial']}: "
        lines.append(f"{'best ' + name:<24}{who}{where}")
    if sweep.front:
        lines.append(f"{'run it again':<24}{rerun(sweep.front[0])}")
    return lines


def to_markdown(sweep: Sweep) -> str:
    """report.md: the facts and the front."""
    objectives = ", ".join(f"{name} ({way})" for name, way in sweep.objectives.items())
    lines = [f"# {sweep.name}", "", f"Objectives: {objectives}.", ""]
    lines += [f"- {fact}" for fact in facts(sweep)]
    title = f"Pareto front ({len(sweep.front)} trials)"
    table = markdown_table(sweep)
    if sweep.plain_runs:
        title, table = f"Runs ({len(sweep.trials)})", _markdown(*runs_table(sweep))
    lines += ["", f"## {title}", "", table, "", *_samples(sweep), "## Where to look next", ""]
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
    table = _markdown(*front_table(sweep))
    return f"{table}\n\n{PLUS_MINUS}" if "±" in table else table


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


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
    """The front as a table, or the runs, the facts, and where to look next."""
    header, rows = (runs_table if sweep.plain_runs else front_table)(sweep)
    title = f"{sweep.name}: Pareto front, {len(sweep.front)} of {len(sweep.trials)} trials"
    lines = [PLUS_MINUS] if any("±" in cell for row in rows for cell in row) else []
    first_out = [name for name in reversed(header) if name not in ("trial", *sweep.objectives)]
    if sweep.plain_runs:
        where = (sweep.directory / _shared(sweep.trials[-MAX_RUNS:])).as_posix()
        title = f"{where}: {len(sweep.trials)} runs"
        settings = ["seed", "λ", "T", "student", "loss"]  # go last
        first_out = [name for name in first_out if name not in ("run", *settings)] + settings
        lines += _about_runs(sweep, len(rows))
    else:
        usual = [name for name in reversed(USUAL) if name in first_out]
        first_out = [*usual, *(name for name in first_out if name not in usual)]
    lines += [*facts(sweep), "", "Where to look next", *next_steps(sweep)]
    print_table(title, header, rows, lines, console, first_out, dim=("teacher", WHO))


def _about_runs(sweep: Sweep, shown: int) -> list[str]:
    """What the table of runs does not say by itself."""
    lines = [f"{ON_FRONT} is on the Pareto front of {' and '.join(sweep.objectives)}"]
    if shown < len(sweep.trials):
        lines.append(f"the last {shown} of {len(sweep.trials)} runs; trials.csv has all")
    return lines


def _name(trial: Trial) -> str:
    """Of a trial its number; of a single run its folder."""
    return trial.label if trial.label and not trial.objectives else str(trial.number)


def _who(trial: Trial) -> str:
    return f"{trial.number} {trial.label}" if trial.label else str(trial.number)


def last_word(name: str, names: Iterable[str]) -> str:
    """The last word of a setting where that is clear among all of them."""
    last = name.rsplit(".", 1)[-1]
    return last if sum(other.rsplit(".", 1)[-1] == last for other in names) == 1 else name
