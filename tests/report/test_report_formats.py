"""Parquet, LaTeX, Markdown and figures of one sweep, and two sweeps side by side."""

import json
import random
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest
from sweep_folders import OBJECTIVES, make_sweep

from kd_research.records.record import RunRecord, write_json, write_record
from kd_research.report import compare_sweeps, load_sweep, write_report
from kd_research.report.__main__ import main
from kd_research.report.baseline import leader
from kd_research.report.compare import compare, to_markdown
from kd_research.report.importances import importances
from kd_research.report.tables import best


def make_points(directory, points, settings=None):
    """A sweep whose trials have exactly these (val_accuracy, num_params)."""
    for number, (accuracy, size) in enumerate(points):
        folder = directory / "trials" / f"{number:04d}"
        write_json(folder / "proposal.json", {"number": number, "params": {"k": number}})
        metrics, costs = {"val_accuracy": accuracy}, {"num_params": size}
        write_record(RunRecord("completed", settings or {}, 0, metrics, costs), folder)
    corner = {"val_accuracy": 0.0, "num_params": 1000}
    write_json(directory / "sweep.yaml", {"objectives": OBJECTIVES, "reference_point": corner})
    return directory


def test_parquet_is_the_csv_with_types(seeds_folder):
    write_report(seeds_folder)
    rows = pd.read_csv(seeds_folder / "trials.csv")
    frame = pd.read_parquet(seeds_folder / "trials.parquet")
    assert list(frame.columns) == list(rows.columns)
    assert frame.isna().equals(rows.isna())
    filled = [table.astype(object).where(table.notna(), "") for table in (frame, rows)]
    pd.testing.assert_frame_equal(*filled, check_dtype=False)
    assert frame["val_accuracy"].dtype == "float64"
    assert frame["on_front"].dtype == bool
    assert frame["energy_joules"].dtype == "float64"  # a column although nothing was measured
    assert frame["energy_joules"].isna().all()
    best = frame.groupby("trial")["val_accuracy"].mean().max()
    assert best == pytest.approx(load_sweep(seeds_folder).front[0].mean("val_accuracy"))


def test_a_setting_of_mixed_types_is_text_in_parquet(tmp_path):
    folder = make_points(tmp_path, [(0.5, 10), (0.6, 20)])
    write_json(folder / "trials/0000/proposal.json", {"number": 0, "params": {"k": "auto"}})
    write_report(folder)
    assert list(pd.read_parquet(folder / "trials.parquet")["k"]) == ["auto", "1"]


def test_latex_has_mean_spread_and_n(seeds_folder, capsys):
    assert main([str(seeds_folder), "--format", "latex"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(r"\begin{tabular}")
    best = load_sweep(seeds_folder).front[0]
    mean, std = best.mean("val_accuracy"), best.std("val_accuracy")
    assert rf"{best.number} & 3 & {100 * mean:.2f} $\pm$ {100 * std:.2f}\% & " in text
    widths = {line.count(" & ") for line in text.splitlines() if line.endswith(r"\\")}
    assert len(widths) == 1
    assert r"val\_accuracy" in text


def test_markdown_prints_the_front_alone(sweep_folder, capsys):
    assert main([str(sweep_folder), "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    sweep = load_sweep(sweep_folder)
    assert len(lines) == 2 + len(sweep.front) + len(sweep.teachers)
    assert lines[2].startswith(f"| {sweep.front[0].number} | 1 | ")


def test_figures_for_papers(sweep_folder, tmp_path, capsys):
    assert main([str(sweep_folder), "--figure", str(tmp_path / "front.svg")]) == 0
    assert ElementTree.parse(tmp_path / "front.svg").getroot().tag.endswith("svg")
    assert main([str(sweep_folder), "--figure", str(tmp_path / "front.gif")]) == 2
    assert "must end in .svg, .pdf, .png, got front.gif" in capsys.readouterr().err


def test_a_sweep_that_dominates_wins(tmp_path):
    rng = random.Random(0)
    sizes = [rng.randint(50, 900) for _ in range(40)]
    worse = make_points(tmp_path / "worse", [(0.4 + size / 3000, size) for size in sizes])
    better = make_points(tmp_path / "better", [(0.6 + size / 3000, size) for size in sizes])
    found = compare(load_sweep(worse), load_sweep(better))
    assert 0 < found.interval[0] <= found.difference <= found.interval[1]
    assert {owner for owner, _ in found.joint} == {1}
    assert "better dominates more" in found.facts()[2]
    back = compare(load_sweep(better), load_sweep(worse))
    assert back.difference == pytest.approx(-found.difference)
    assert back.interval[1] < 0


def test_two_sweeps_say_what_their_spread_is(tmp_path):
    spread = [make_sweep(tmp_path / name, num_trials=6, seeds=3) for name in ("a", "b")]
    said = "in its table ± is the standard deviation over the n seeds of a trial"
    found = compare(*map(load_sweep, spread))
    assert any("±" in cell for row in found.table()[1] for cell in row)
    assert found.facts()[-1] == said
    assert said in to_markdown(found)
    single = [make_sweep(tmp_path / name, num_trials=6) for name in ("c", "d")]
    assert said not in compare(*map(load_sweep, single)).facts()


def test_more_trials_of_the_same_are_no_win(tmp_path):
    """24 against 120 trials drawn alike: the 120 "dominated more" 79 times of 100."""
    wins = 0
    for draw in range(10):
        rng = random.Random(draw)
        points = [(rng.random(), rng.randint(50, 900)) for _ in range(144)]
        few = make_points(tmp_path / f"few{draw}", points[:24])
        many = make_points(tmp_path / f"many{draw}", points[24:])
        found = compare(load_sweep(few), load_sweep(many))
        assert found.counts == (24, 120)
        assert "compared at the first 24 of each" in found.facts()[0]
        wins += "many" in found.facts()[2] and "dominates more" in found.facts()[2]
    assert wins <= 2


def test_equal_sweeps_are_not_told_apart(tmp_path):
    points = [(0.9, 900), (0.7, 300), (0.5, 100), (0.4, 700)]
    one = make_points(tmp_path / "one", points, {"loss": {"name": "kd"}})
    two = make_points(tmp_path / "two", points, {"loss": {"name": "dkd"}})
    found = compare(load_sweep(one), load_sweep(two))
    assert found.difference == 0
    assert found.interval[0] < 0 < found.interval[1]
    assert found.settings == {"loss.name": ("kd", "dkd")}
    assert found.volumes[0] == pytest.approx(0.5 * 200 + 0.7 * 600 + 0.9 * 100)


def test_the_upper_layers_give_the_same_volumes(tmp_path):
    from kd_research.report.compare import _upper_layers
    from kd_research.report.pareto import hypervolume

    rng = random.Random(1)
    points = [[rng.random(), rng.random()] for _ in range(2000)]
    directions = ["maximize", "minimize"]
    upper = _upper_layers(points, directions)
    assert sum(point[0] is not None for point in upper) < 1000
    for _ in range(20):
        drawn = {rng.randrange(2000) for _ in range(2000)}
        volumes = [
            hypervolume([some[k] for k in drawn], directions, (0, 1)) for some in (points, upper)
        ]
        assert volumes[0] == pytest.approx(volumes[1], rel=1e-12)


def test_sweeps_with_other_objectives_do_not_compare(sweep_folder, tmp_path, capsys):
    objectives = {"val_accuracy": "maximize", "latency_ms": "minimize"}
    other = make_sweep(tmp_path / "other", num_trials=5, objectives=objectives)
    assert main([str(sweep_folder), str(other)]) == 2
    assert "compare on the same objectives" in capsys.readouterr().err
    write_json(tmp_path / "empty" / "sweep.yaml", {"objectives": OBJECTIVES})
    assert main([str(sweep_folder), str(tmp_path / "empty")]) == 2
    assert "has no completed trial" in capsys.readouterr().err


def test_a_comparison_is_printed_and_written(sweep_folder, seeds_folder, capsys):
    found = compare_sweeps(sweep_folder, seeds_folder)
    page = sweep_folder / "compare-digits-seeds.html"
    assert page.is_file()
    text = page.with_suffix(".md").read_text()
    printed = capsys.readouterr().out
    for fact in found.facts():
        assert fact in text
        assert fact in printed


def test_importances_find_what_matters(tmp_path):
    rng = random.Random(0)
    folder = make_points(tmp_path, [(0, 0)] * 60)
    for number in range(60):
        path = folder / "trials" / f"{number:04d}"
        params = {"a": rng.random(), "b": rng.choice(["x", "y"]), "idle": rng.random(), "same": 1}
        write_json(path / "proposal.json", {"number": number, "params": params})
        metrics = {"val_accuracy": params["a"] / 2 + 0.01 * (params["b"] == "y")}
        write_record(RunRecord("completed", {}, 0, metrics, {"num_params": 5}), path)
    found = importances(load_sweep(folder))
    assert set(found) == {"val_accuracy"}  # num_params does not vary
    accuracy = found["val_accuracy"]
    assert accuracy.shares["a"] > 0.9
    assert accuracy.shares["idle"] < 0.05
    assert "same" not in accuracy.shares
    assert sum(accuracy.shares.values()) == pytest.approx(1)
    assert accuracy.r2 > 0.8


def test_few_trials_have_no_importances(tmp_path):
    assert importances(load_sweep(make_points(tmp_path, [(0.1, 1), (0.2, 2)]))) == {}


def test_of_equal_trials_the_lowest_nll_is_the_best_then_the_latest(tmp_path):
    """A validation split of a few hundred examples gives many trials of equal accuracy."""
    folder = make_points(tmp_path / "equal", [(0.9, 500)] * 4)
    for number, nll in enumerate((0.4, 0.3, 0.3, 0.5)):
        path = folder / "trials" / f"{number:04d}" / "record.json"
        record = json.loads(path.read_text())
        record["metrics"]["val_nll"] = nll
        path.write_text(json.dumps(record))
    sweep = load_sweep(folder)
    assert best(sweep)["val_accuracy"]["trial"] == 2
    assert leader(sweep).number == 2
