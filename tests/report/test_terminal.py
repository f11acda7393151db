"""What a person sees in a terminal of some width: tables in which no number is cut."""

import io
import re

import pytest
from rich.console import Console
from sweep_folders import make_sweep

from kd_research.records.record import RunRecord, write_record, write_text
from kd_research.report import load_sweep, write_report
from kd_research.report.__main__ import main
from kd_research.report.numbers import show
from kd_research.report.terminal import layout, print_markdown, print_table, wrapped
from kd_research.report.text import print_summary

WIDTHS = [60, 80, 120]
LEDGER = """\
# crd: published against ours

| row | metric | published | ours (n) | difference | by the paper's rule | tolerance | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- |
| resnet56 to resnet20 | test_accuracy | 71.08% | 70.66 ± 0.24% (5) | -0.42% | unknown | 0.30% | \
undecided: ± 0.298 spans the tolerance |

- Claim: it helps. **reproduced**
![tuning curves](tuning.svg)
"""


def printed(print_it, width):
    stream = io.StringIO()
    print_it(Console(file=stream, width=width))
    return stream.getvalue()


def cells(text):
    """Of each row of the tables, the cells; a wrapped one is put together again."""
    rows = []
    for line in text.splitlines():
        if line.startswith("│"):
            parts = [part.strip() for part in line.strip("│").split("│")]
            if parts[1:] and not any(parts[1:]) and rows:
                rows[-1][0] += parts[0]
            else:
                rows.append(parts)
    return rows


@pytest.mark.parametrize("width", WIDTHS)
def test_the_front_is_whole_at_every_width(tmp_path, width):
    sweep = load_sweep(make_sweep(tmp_path / "digits-kd", seeds=3, num_trials=12))
    text = printed(lambda console: print_summary(sweep, console), width)
    assert "…" not in text
    table = [line for line in text.splitlines() if line[:1] in "┏┃┡│└"]
    assert max(map(len, table)) <= width
    for trial in sweep.front:
        for name in sweep.objectives:
            assert f" {show(name, trial.mean(name), trial.std(name))} " in text
    left_out = re.search(rf"left out at {width} characters: (.*)", text)
    assert (left_out is None) == (width == 120)
    for name in left_out[1].split(", ") if left_out else ():
        assert name not in "".join(table)


@pytest.fixture
def mixed_runs(tmp_path):
    """Runs of other losses, students, data and optimizers; one failed, one has no record."""

    def run(name, seed, loss, student, accuracy, **more):
        model = {"_target_": f"kd_research.models.{student}", "input_shape": [1, 8, 8]}
        terms = {loss: {"weight": 1.0, "loss": {"_target_": "x"}}} if loss != "ce" else {}
        config = {"seed": seed, "loss": {"terms": terms}, "student": {"model": model}}
        config["loss"] |= {"temperature": 4.0, "lambda": 0.5} if terms else {}
        config |= {"optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01}, "num_threads": seed}
        config |= more
        metrics = {"val_accuracy": accuracy, "test_accuracy": accuracy}
        status = "completed" if accuracy else "failed"
        error = None if accuracy else "FloatingPointError: non-finite"
        costs = {"num_params": 1_536_258 if accuracy else None}
        folder = tmp_path / "runs" / "2026-11-28" / name
        write_record(RunRecord(status, config, seed, metrics, costs, error=error), folder)

    run("05-39-41-713895", 1, "kd", "mlp.MLP", 0.5)
    run("05-39-55-758210", 2, "ce", "cnn.CNN", 0.875, overrides=["a", "b"])
    run("05-40-08-468115", 0, "dkd", "text.BagOfEmbeddings", 0.25, dataset={"name": "sst2"})
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
    run("05-40-22-550570", 0, "at", "cnn.CNN", None, optimizer=optimizer)
    write_text(tmp_path / "runs" / "2026-11-28" / "06-00-00-000001" / "config.yaml", "seed: 1\n")
    return tmp_path / "runs"


@pytest.mark.parametrize("width", WIDTHS)
def test_any_mix_of_runs_is_one_table(mixed_runs, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([str(mixed_runs)]) == 0
    text = capsys.readouterr().out
    assert "…" not in text
    assert "5 runs: 3 completed, 1 running, 1 failed" in text
    rows = cells(text)
    assert [row[0] for row in rows][-2:] == ["05-40-22-550570", "06-00-00-000001"]
    first = rows[0]
    for cell in ["kd", "MLP", "4", "50.00%", "1,536,258", *(["0.5", "1"] if width > 60 else [])]:
        assert cell in first, (cell, first)
    assert "failed" in rows[-2]
    for internal in ("terms", "input_shape", "num_threads", "overrides", "momentum", "_target_"):
        assert internal not in text.replace("\n", "")


def test_runs_say_what_they_are_in_the_files(mixed_runs):
    sweep = write_report(mixed_runs).sweep
    assert sweep.param_names[:2] == ["loss", "student"]
    assert {"dataset", "optimizer"} <= set(sweep.param_names)
    assert sweep.trials[2].params["student"] == "BagOfEmbeddings"
    assert "| 05-39-55-758210 * | ce | CNN |" in (mixed_runs / "report.md").read_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_papers_ledger_is_a_table(width, tmp_path):
    text = printed(lambda console: print_markdown(LEDGER, tmp_path, console), width)
    assert "| ---" not in text
    assert "**" not in text
    assert "…" not in text
    assert "- Claim: it helps. reproduced" in text
    assert f"tuning curves: {tmp_path / 'tuning.svg'}" in text
    assert max(len(line) for line in text.splitlines() if line[:1] in "┏┃┡│└") <= width
    assert "undecided" in text, "the verdict is what a narrow terminal keeps"
    numbers = ["71.08%", "70.66 ± 0.24% (5)", "-0.42%", "0.30%"]
    left_out = text.partition("left out at")[2]
    names = ["published", "ours (n)", "difference", "tolerance"]
    for number, name in zip(numbers, names, strict=True):
        assert (number in text) != (name in left_out)


def test_a_terminal_that_is_too_narrow_cuts_nothing():
    row = ["a", "1,536,258", "0.123456789"]
    text = printed(lambda c: print_table("t", ["x", "y", "z"], [row], (), c, first_out=[]), 12)
    assert "…" not in text
    assert all(cell in text for cell in row)


def test_words_are_wrapped_before_columns_go():
    header, rows = ["run", "student", "n"], [["a", "BagOfEmbeddings", "12"]]
    assert layout(header, rows, 25, [1]) == ([0, 1, 2], [3, 10, 2])
    assert layout(header, rows, 22, [1])[0] == [0, 2]
    assert wrapped("BagOfEmbeddings", 10) == "BagOf\nEmbeddings"
    assert wrapped("val_accuracy", 8) == "val_\naccuracy"
    assert wrapped("-0.42 ± 0.3e-05", 9) == "-0.42 ±\n0.3e-05"
