"""The page of a comparison of methods (`sweep.methods`): methods.md and tuning.svg.

Read from the sweep's folder alone: its trials are the final runs, `tuning/NAME` are the sweeps
that chose their settings. While these run, the page says how far they are.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_research.records.record import SWEEP_NAME, write_text
from kd_research.report.by_seed import Difference, difference, holm, values_by_seed
from kd_research.report.load import load_sweep
from kd_research.report.numbers import show, show_gap
from kd_research.report.sweep import Sweep, Trial, larger_is_better
from kd_research.report.tables import best

TUNING = "tuning"  # the folder of the tuning sweeps, in the comparison's own
LEVEL = 0.05  # of the corrected p value, below which a difference is called one
NOTE = """\
Each method was tuned on validation with as many trials as every other, its own default setting
first; the test split was not read while tuning. The best setting was then run on seeds that no
tuning saw, and the test split read once in each of these runs. ± of a method is the 95 % t interval
of its mean over the n seeds. Differences are within seeds, in percentage points where it is an
accuracy, with their 95 % t interval; p is of the paired t-test, corrected by Holm's method for all
the tests of this table. "Better" and "worse" need a p below 0.05. One teacher and one split of the
data: the intervals are over the seeds of the student alone. The first run that asks for a
teacher's outputs computes them, for all others: epochs with a live teacher and with cached outputs
are counted apart, and - is "no such epoch". ± of a cost is a 95 % t interval too. Seconds
of the processor and bytes of live tensors are of training, the student's own costs are in
trials.csv."""


def write_methods(sweep: Sweep) -> Path | None:
    """Write methods.md and tuning.svg into the sweep's folder; None where it compares nothing."""
    spec = sweep.spec
    if not spec.get("methods"):
        return None
    tunings = {name: _tuning(sweep.directory / TUNING / name) for name in spec["methods"]}
    draw({k: v for k, v in tunings.items() if v}, sweep.directory / "tuning.svg")
    page = sweep.directory / "methods.md"
    write_text(page, to_markdown(sweep, spec, tunings))
    return page


def _tuning(directory: Path) -> Sweep | None:
    return load_sweep(directory) if (directory / SWEEP_NAME).is_file() else None


def best_so_far(tuning: Sweep) -> list[float | None]:
    """The best value of the objective after each trial; None before the first that completed."""
    name, direction = next(iter(tuning.objectives.items()))
    choose = max if direction == "maximize" else min
    found: list[float | None] = []
    seen: list[float] = []
    for trial in tuning.trials:
        value = trial.mean(name) if trial.state == "completed" else None
        seen += [] if value is None else [value]
        found.append(choose(seen, default=None))
    return found


def tuning_curves(sweep: Sweep) -> dict[str, list[float | None]]:
    """Of each method the best value after so many trials; {} where none are compared."""
    tunings = {n: _tuning(sweep.directory / TUNING / n) for n in sweep.spec.get("methods") or {}}
    return {name: best_so_far(tuning) for name, tuning in tunings.items() if tuning}


def corrected_tests(
    values: Mapping[str, Mapping[int, float]], against: Sequence[str]
) -> dict[tuple[str, str], tuple[Difference, float | None]]:
    """(method, baseline) -> their paired difference, and its p value corrected for all of them."""
    pairs = {
        (name, other): difference(values[name], values[other])
        for name in values
        for other in against
        if name != other and other in values
    }
    # Of two baselines the later is tested against the earlier, which is the same test.
    once = {
        pair: gap
        for pair, gap in pairs.items()
        if gap and not (pair[::-1] in pairs and against.index(pair[1]) > against.index(pair[0]))
    }
    asked = [pair for pair, gap in once.items() if gap.p_value is not None]
    corrected = holm([float(once[pair].p_value or 0.0) for pair in asked])
    p_values = dict(zip(asked, corrected, strict=True))
    return {pair: (gap, p_values.get(pair)) for pair, gap in once.items()}


def to_markdown(sweep: Sweep, spec: Mapping[str, Any], tunings: Mapping[str, Sweep | None]) -> str:
    """The page: what was run, the comparison, what it cost, the settings, the tuning curve."""
    metric, against = str(spec["metric"]), [str(name) for name in spec.get("against") or ()]
    trials = {trial.label or "": trial for trial in sweep.trials}
    values = {name: values_by_seed(trials.get(name), metric) for name in spec["methods"]}
    tested = corrected_tests(values, against)
    lines = [f"# {sweep.name}: methods on equal terms", "", *_facts(sweep, spec, tunings), ""]
    header = ["method", f"{metric} (n)", *(f"against {name}" for name in against)]
    rows = []
    for name in sorted(values, key=lambda name: _place(trials.get(name), metric)):
        cells = [name, interval(trials.get(name), metric)]
        cells += [_verdict(tested.get((name, other)), metric) for other in against]
        rows.append(cells)
    lines += [*table(header, rows), ""]
    lines += ["## Costs of training", "", *_costs(trials, tunings), ""]
    lines += ["## Best settings on validation", "", *_settings(tunings), ""]
    lines += ["## Tuning: best value after so many trials", "", *_curves(tunings), ""]
    lines += ["![tuning curves](tuning.svg)", "", NOTE]
    return "\n".join(lines) + "\n"


def _facts(sweep: Sweep, spec: Mapping[str, Any], tunings: Mapping[str, Sweep | None]) -> list[str]:
    runs = [record for trial in sweep.trials for record in trial.records]
    seeds = sorted({record.seed for record in runs})
    tuned = {r.seed for t in tunings.values() if t for each in t.trials for r in each.records}
    lines = ["Made by:", "", f"    {sweep.command}", ""] if sweep.command else []
    budgets = {name: len(t.trials) if t else 0 for name, t in tunings.items()}
    done = ", ".join(f"{name} {number}" for name, number in budgets.items())
    wanted = {t.n_trials for t in tunings.values() if t}
    if len(wanted) == 1 and set(budgets.values()) == wanted:
        done = f"{wanted.pop()} of each method"
    lines.append(f"- Tuning trials: {done}; seeds {numbers(tuned)}.")
    lines.append(f"- Final runs: seeds {numbers(seeds)}.")
    if runs:
        first = runs[0]
        commits = sorted({(r.provenance.get("git") or {}).get("commit", "-")[:7] for r in runs})
        lines.append(f"- Commit {', '.join(commits)}; device: {first.provenance.get('device')}.")
        taught = [trial for trial in sweep.trials if trial.mean("teacher_test_accuracy")]
        if taught:
            accuracy, size = (
                show(name, taught[0].mean(name))
                for name in ("teacher_test_accuracy", "teacher_num_params")
            )
            student = show("num_params", taught[0].mean("num_params"))
            lines.append(
                f"- Teacher: test accuracy {accuracy} (1 seed), {size} parameters; the "
                f"student has {student}."
            )
    return lines


def numbers(seeds: Iterable[int]) -> str:
    """Seeds for people: a range where they are one."""
    known = sorted(seeds)
    if len(known) > 2 and known == list(range(known[0], known[-1] + 1)):
        return f"{known[0]} to {known[-1]}"
    return ", ".join(map(str, known)) or "none yet"


def _place(trial: Trial | None, metric: str) -> float:
    mean = trial.mean(metric) if trial else None
    if mean is None:
        return math.inf
    return -mean if larger_is_better(metric) else mean


def interval(trial: Trial | None, metric: str) -> str:
    """Mean, half width of its 95 % interval and n, for people."""
    count = len(trial.values(metric)) if trial else 0
    if trial is None or not count:
        return "-"
    return f"{show(metric, trial.mean(metric), trial.half_width(metric))} ({count})"


def _verdict(found: tuple[Difference, float | None] | None, metric: str) -> str:
    if found is None:
        return "-"
    gap, p_value = found
    text = show_gap(metric, gap.mean, gap.half_width)
    if p_value is None:
        return text
    better = (gap.mean > 0) == larger_is_better(metric)
    said = ("better" if better else "worse") if p_value < LEVEL else "no difference shown"
    return f"{text}, p {p_value:.2g}: {said}"


def _costs(trials: Mapping[str, Trial], tunings: Mapping[str, Sweep | None]) -> list[str]:
    header = ["method", "ms of processor an epoch, teacher outputs cached", "teacher live"]
    header += ["KiB in a step", "seconds of all tuning runs"]
    drawn = {  # of methods that train on text drawn for them
        "generation_seconds": ("seconds of drawing text", 1.0),
        "generated_tokens": ("thousands of tokens drawn", 1 / 1000),
        "on_policy_share": ("% of batches the student's text", 100.0),
    }
    told = any(trial.mean(name) is not None for trial in trials.values() for name in drawn)
    drawn = drawn if told else {}
    header += [said for said, _ in drawn.values()]
    staged = {name: _stage_seconds(trial) for name, trial in trials.items()}
    header += ["seconds of the stages before"] if any(staged.values()) else []
    rows = []
    for name, tuning in tunings.items():
        trial = trials.get(name)
        spent = [
            record.provenance.get("seconds") or 0.0
            for each in (tuning.trials if tuning else ())
            for record in each.records
        ]
        rows.append(
            [
                name,
                _scaled(trial, "cached_teacher_epoch_cpu_seconds", 1000),
                _scaled(trial, "live_teacher_epoch_cpu_seconds", 1000),
                _scaled(trial, "train_step_bytes", 1 / 1024),
                f"{sum(spent):.0f}",
                *(_scaled(trial, cost, factor) for cost, (_, factor) in drawn.items()),
                *([f"{staged.get(name, 0.0):.1f}"] if any(staged.values()) else []),
            ]
        )
    return table(header, rows)


def _stage_seconds(trial: Trial) -> float:
    """Of all stages before the training itself, the mean over the seeds."""
    names = {name for record in trial.records for name in record.costs}
    clocks = [name for name in names if re.fullmatch(r"stage_\w+(?<!_cpu)_seconds", name)]
    return sum(trial.mean(name) or 0.0 for name in clocks)


def _scaled(trial: Trial | None, name: str, factor: float) -> str:
    if trial is None or (mean := trial.mean(name)) is None:
        return "-"
    width = trial.half_width(name)
    return f"{factor * mean:.1f}" + (f" ± {factor * width:.1f}" if width else "")


def _settings(tunings: Mapping[str, Sweep | None]) -> list[str]:
    rows = []
    for name, tuning in tunings.items():
        found = next(iter(best(tuning).values()), None) if tuning else None
        if tuning is None or found is None:
            rows.append([name, "-", "-", "-"])
            continue
        params = ", ".join(f"{key}={show(key, value)}" for key, value in found["params"].items())
        objective = next(iter(tuning.objectives))
        rows.append([name, show(objective, found["value"]), str(found["trial"]), params])
    return table(["method", "best on validation", "trial", "setting"], rows)


def _curves(tunings: Mapping[str, Sweep | None]) -> list[str]:
    curves = {name: (t, best_so_far(t)) for name, t in tunings.items() if t}
    longest = max((len(curve) for _, curve in curves.values()), default=0)
    budgets = [2**power for power in range(longest.bit_length()) if 2**power < longest]
    budgets += [longest] if longest else []
    rows = [
        [
            name,
            *(show(next(iter(t.objectives)), _at(curve, budget)) for budget in budgets),
        ]
        for name, (t, curve) in curves.items()
    ]
    return table(["method", *map(str, budgets)], rows)


def _at(curve: Sequence[float | None], budget: int) -> float | None:
    return curve[budget - 1] if len(curve) >= budget else None


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]


def draw(tunings: Mapping[str, Sweep], path: Path) -> None:
    """The tuning curves as a figure."""
    from matplotlib.figure import Figure  # 0.5 s that only a figure costs

    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.subplots()
    styles = ("-", "--", ":", "-.")  # the ten colours repeat
    for place, (name, tuning) in enumerate(tunings.items()):
        curve = best_so_far(tuning)
        known = [(at + 1, 100 * value) for at, value in enumerate(curve) if value is not None]
        style = styles[place // 10 % len(styles)]
        if known:
            axes.step(*zip(*known, strict=True), where="post", label=name, ls=style, lw=1.2)
            axes.set_ylabel(f"best {next(iter(tuning.objectives))} (x 100)")
    axes.set_xlabel("tuning trials")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
