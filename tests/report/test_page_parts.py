"""What the page holds beside its trials: what was run, what the sweep was made to say, examples."""

import json

import pytest
from sweep_folders import make_sweep

from kd_research.records.record import (
    SAMPLES_NAME,
    RunRecord,
    read_record,
    write_json,
    write_record,
)
from kd_research.report import load_sweep, write_report
from kd_research.report.blocks import parsed
from kd_research.report.damage import damage
from kd_research.report.page import page_data
from kd_research.report.setup import setup
from kd_research.report.text import facts

IMAGE = "data:image/png;base64,iVBORw0KGgo="


def test_the_strip_says_what_was_run(sweep_folder):
    for path in sorted(sweep_folder.glob("trials/*/record.json"))[:2]:
        record = read_record(path.parent)
        record.config["dataset"] = {"name": "digits", "subset": None}
        record.config["trainer"] = {"max_epochs": 30}
        record.config["teacher"] = {"model": {"_target_": "kd_research.models.cnn.CNN"}}
        record.config["student"]["model"]["_target_"] = "kd_research.models.mlp.MLP"
        sizes = {"train": 1149, "val": 288, "test": 360}
        git = {"commit": "55bec5cf3ab828f1", "dirty": True}
        record.provenance.update(split_sizes=sizes, git=git, device="a processor")
        write_record(record, path.parent)
    assert dict(setup(load_sweep(sweep_folder))) == {
        "data": "digits",
        "examples": "1,149 train, 288 validation, 360 test",
        "teacher": "CNN, 85,002 parameters, 98.61% on validation",
        "student": "MLP",
        "loss": "kd",
        "epochs": "30",
        "seeds": "1 (0)",
        "commit": "55bec5cf3a with changes",
        "device": "a processor",
        "command": "python -m kd_research.run -m sweep.name=digits-kd",
    }


def test_what_a_sweep_was_made_to_say_is_in_its_parts():
    page = "# a: methods\n\n- Seeds 1 to 4.\n- Commit x.\n\n| a | b |\n| --- | --- |\n| 1 | **2** |"
    page += "\n\nMade by:\n\n    kd run\n\n![curves](t.svg)\n\ntwo\nlines\n"
    assert parsed(page) == [
        {"head": "a: methods"},
        {"text": "Seeds 1 to 4."},
        {"text": "Commit x."},
        {"table": [["a", "b"], ["1", "2"]]},
        {"text": "Made by:"},
        {"code": "kd run"},
        {"text": "two lines"},
    ]


def data_of(folder):
    page = (folder / "report.html").read_text()
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_a_comparisons_verdicts_and_tuning_curves_are_in_the_page(tmp_path):
    folder = tmp_path / "m"
    names = ("ce", "kd")
    spec = {
        "name": "m",
        "objectives": {"val_accuracy": "maximize"},
        "methods": {name: {"overrides": {"loss": name}} for name in names},
        "metric": "test_accuracy",
        "against": ["ce"],
        "seeds": 2,
    }
    write_json(folder / "sweep.yaml", spec)
    for number, name in enumerate(names):
        own = {k: v for k, v in spec.items() if k not in ("methods", "metric", "against")}
        write_json(folder / "tuning" / name / "sweep.yaml", {**own, "seeds": 1, "n_trials": 3})
        for trial, value in enumerate((0.5, 0.25, 0.75)):
            place = folder / "tuning" / name / "trials" / f"{trial:04d}"
            write_json(place / "proposal.json", {"number": trial, "params": {"k": trial}})
            write_record(RunRecord("completed", {}, 0, {"val_accuracy": value}), place)
        place = folder / "trials" / f"{number:04d}"
        proposal = {"number": number, "label": name, "params": {"loss": name}}
        write_json(place / "proposal.json", proposal)
        for seed in (0, 1):
            metrics = {"val_accuracy": 0.5, "test_accuracy": 0.5 + number / 4 + seed / 100}
            write_record(RunRecord("completed", {}, seed, metrics), place / f"seed-{seed}")
    write_report(folder)
    data = data_of(folder)
    assert data["tuning"] == {name: [0.5, 0.5, 0.75] for name in names}
    tables = [part["table"] for part in data["said"][0] if "table" in part]
    assert tables[0][0] == ["method", "test_accuracy (n)", "against ce"]
    assert [row[0] for row in tables[0][1:]] == ["kd", "ce"]
    assert tables[0][1][2] == "+25.00", "the same gain in both seeds: no spread to judge by"


def test_a_papers_ledger_is_in_the_page(tmp_path):
    folder = make_sweep(tmp_path / "paper", num_trials=4)
    spec = json.loads(json.dumps({"name": "paper", "objectives": {"val_accuracy": "maximize"}}))
    spec["rows"] = {"a": {"overrides": {}, "expected": {"test_accuracy": 0.5}}}
    write_json(folder / "sweep.yaml", spec)
    write_report(folder)
    (ledger,) = data_of(folder)["said"]
    assert ledger[0] == {"head": "paper: published against ours"}
    assert any(part.get("table", [[""]])[0][-1] == "verdict" for part in ledger)


def test_the_hypervolume_is_a_share_of_the_reference_box(sweep_folder):
    sweep = load_sweep(sweep_folder)  # the box: accuracy from 0 to 1, parameters from 20,000 to 0
    assert sweep.hypervolume_share == pytest.approx(sweep.hypervolume / 20000)
    assert 0 < sweep.hypervolume_share < 1
    (line,) = [line for line in facts(sweep) if line.startswith("hypervolume")]
    assert f"{100 * sweep.hypervolume_share:.1f} % of the reference box" in line


def test_there_is_no_box_where_an_objective_has_no_end(tmp_path):
    objectives = {"val_accuracy": "maximize", "speedup": "maximize"}
    folder = make_sweep(tmp_path / "open", objectives=objectives)
    assert load_sweep(folder).hypervolume_share is None


def test_the_page_knows_how_a_key_was_searched_and_where_a_trial_lies(sweep_folder):
    data = page_data(load_sweep(sweep_folder))
    assert data["searched"]["loss.temperature"] == "tag(log, interval(1,20))"
    assert data["trials"]["directory"][5] == "trials/0005"


def test_examples_of_disagreement_are_shown_and_damage_is_told(sweep_folder):
    best = load_sweep(sweep_folder).front[0]
    example = {"image": IMAGE, "label": "8", "student": "3", "teacher": "8"}
    write_json(best.directory / SAMPLES_NAME, {"samples": [], "disagreements": [example]})
    found = page_data(load_sweep(sweep_folder))["evaluations"][best.number]
    assert found["disagreements"] == [example]
    assert "samples" not in found
    outside = {**example, "image": "https://example.org/x.png"}
    write_json(best.directory / SAMPLES_NAME, {"disagreements": [outside]})
    assert "disagreements" not in page_data(load_sweep(sweep_folder))["evaluations"][best.number]
    assert any("it holds no disagreements" in line for line in damage(best.directory))
