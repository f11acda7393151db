"""Every sweep runs its leader's student once more from the labels alone, as a reference."""

import json

import pytest
from omegaconf import OmegaConf
from sweep_commands import EpochByEpoch, make_plan

from kd_research.configuration.config import ConfigError
from kd_research.records.record import RunRecord, read_record
from kd_research.report import load_sweep, write_report
from kd_research.report.text import facts, front_table
from kd_research.sweep.baseline import run_baseline
from kd_research.sweep.opening import open_study
from kd_research.sweep.run import Sweep, run_sweep

SWEEP = ["sampler=random", "sweep.name=s", "tracking=disabled", "sweep.prune_dominated=null"]
LOSS = "loss.temperature=5"  # a key that loss=ce does not have


def run_of(directory):
    """Wider students are better; a distilled one by 0.1 more."""
    config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    width, seed = config["student"]["model"]["width"], config["seed"]
    accuracy = 0.5 + width / 1000 + 0.1 * bool(config["loss"]["terms"]) + 0.001 * seed
    metrics = {"val_accuracy": accuracy, "test_accuracy": accuracy - 0.05}
    return [], RunRecord("completed", config, seed, metrics, {"num_params": 10 * width})


def fails_alone(directory):
    rows, record = run_of(directory)
    if "baseline" in directory.parts:
        record = RunRecord("failed", record.config, record.seed, error="MemoryError: no room")
    return rows, record


def swept(output_dir, *overrides, run=run_of):
    """A sweep whose trials are finished; its baseline is not run."""
    overrides = overrides or (LOSS, "sweep.seeds=2", "sweep.n_trials=4")
    plan = make_plan(*SWEEP, f"output_dir={output_dir}", *overrides)
    plan.directory.mkdir(parents=True)
    with open_study(plan) as study:
        Sweep(plan, study, EpochByEpoch(run)).run()
    return plan


def test_where_the_inputs_are_made_it_has_the_real_examples(tmp_path):
    plan = swept(tmp_path, LOSS, "transfer=class_impressions", "sweep.n_trials=1")
    pool = EpochByEpoch(run_of)
    assert run_baseline(plan, pool, no_beat)
    (folder,) = pool.started
    assert not OmegaConf.load(folder / "config.yaml").transfer
    assert not run_baseline(plan, pool, no_beat), "it is there already"


def no_beat():
    pass


def test_the_leaders_student_is_run_from_labels_alone_and_found_again(tmp_path):
    plan, pool = swept(tmp_path), EpochByEpoch(run_of)
    before = load_sweep(plan.directory)
    assert run_baseline(plan, pool, no_beat)
    sweep = load_sweep(plan.directory)
    best = max(sweep.trials, key=lambda trial: trial.mean("val_accuracy"))
    folder = plan.directory / "baseline" / f"{best.number:04d}"
    assert pool.started == [folder / "seed-0", folder / "seed-1"]
    for seed in ("seed-0", "seed-1"):
        its, ours = (
            OmegaConf.to_container(OmegaConf.load(place / seed / "config.yaml"))
            for place in (best.directory, folder)
        )
        assert ours["loss"] == {"ce_weight": 1.0, "search": {}, "terms": {}}
        assert its.pop("loss")["terms"]
        assert ours.pop("loss")
        assert its.pop("tracking")["run_id"] == f"s-t{best.number:04d}-s{seed[-1]}"
        assert ours["tracking"]["job_type"] == "baseline"
        assert ours.pop("tracking")["run_id"] == f"s-baseline-t{best.number:04d}-s{seed[-1]}"
        assert its.pop("sweep")["name"] == ours.pop("sweep")["name"]  # its space names the loss
        assert its == ours
    assert [trial.number for trial in sweep.trials] == [trial.number for trial in before.trials]
    assert sweep.counts == before.counts == {"completed": 4, "running": 0, "failed": 0, "pruned": 0}
    assert sweep.hypervolume == before.hypervolume
    assert not run_baseline(plan, pool, no_beat), "it is there already"
    assert len(pool.started) == 2


def test_table_page_and_summary_say_what_distillation_gave(tmp_path):
    plan = swept(tmp_path)
    run_baseline(plan, EpochByEpoch(run_of), no_beat)
    sweep = write_report(plan.directory).sweep
    best = sweep.front[0]
    (line,) = [line for line in facts(sweep) if "distillation" in line]
    assert "val_accuracy +10.00 points, test_accuracy +10.00 points" in line
    assert f"trial {best.number} less its student from labels alone, 2 seeds each" in line
    header, rows = front_table(sweep)
    row = dict(zip(header, next(row for row in rows if row[0] == "labels alone"), strict=True))
    assert row["num_params"] == f"{best.mean('num_params'):,.0f}"
    assert row["n"] == "2"
    assert row["width"] == str(best.params["student.model.width"])
    assert line in (plan.directory / "report.md").read_text()
    known = json.loads((plan.directory / "summary.json").read_text())["baseline"]
    assert known["of_trial"] == best.number
    assert known["values"]["val_accuracy"] == pytest.approx(best.mean("val_accuracy") - 0.1)
    page = (plan.directory / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["gain"] == line
    assert data["baseline"]["mean"]["num_params"] == best.mean("num_params")
    assert len(data["trials"]["number"]) == 4, "it is no trial"


@pytest.mark.parametrize(("teacher", "said"), [(0.2, True), (0.9, False)])
def test_a_teacher_worse_than_labels_alone_is_told(tmp_path, teacher, said):
    def taught(directory):
        rows, record = run_of(directory)
        if "baseline" not in directory.parts:
            record.metrics["teacher_val_accuracy"] = teacher
        return rows, record

    plan = swept(tmp_path, LOSS, "sweep.n_trials=2", run=taught)
    run_baseline(plan, EpochByEpoch(taught), no_beat)
    (line,) = [line for line in facts(load_sweep(plan.directory)) if "distillation" in line]
    assert ("the teacher is worse than labels alone: val_accuracy 20.00% against" in line) == said


def test_a_failed_baseline_fails_no_sweep_and_is_not_tried_again(tmp_path, capsys):
    plan, pool = swept(tmp_path), EpochByEpoch(fails_alone)
    assert run_baseline(plan, pool, no_beat)
    assert "baseline: failed (MemoryError: no room); the sweep stands" in capsys.readouterr().out
    sweep = load_sweep(plan.directory)
    assert sweep.counts["completed"] == 4
    assert any(line.startswith("the baseline of trial") for line in facts(sweep))
    assert not run_baseline(plan, pool, no_beat)
    assert len(pool.started) == 2


def test_a_killed_baseline_goes_on_where_it_stood(tmp_path):
    plan = swept(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_baseline(plan, EpochByEpoch(run_of, slots=1, stop_after=0), no_beat)
    pool = EpochByEpoch(run_of, slots=1)
    assert run_baseline(plan, pool, no_beat)
    assert [path.name for path in pool.started] == ["seed-1"]


def test_it_is_left_out_by_the_word_and_where_a_trial_is_one(tmp_path):
    pool = EpochByEpoch(run_of)
    assert not run_baseline(swept(tmp_path / "a", "sweep.baseline=false"), pool, no_beat)
    plan = swept(tmp_path / "b")
    for folder in plan.directory.glob("trials/*/seed-*"):
        record = read_record(folder)
        record.config["loss"]["terms"] = {}
        (folder / "record.json").write_text(json.dumps(vars(record)))
    assert not run_baseline(plan, pool, no_beat)
    assert any("nothing, trial" in line for line in facts(load_sweep(plan.directory)))
    assert pool.started == []


def test_rows_take_their_own_row_from_labels_alone(tmp_path):
    rows = ["+sweep.rows.plain.overrides={loss:ce}", "+sweep.rows.soft.overrides={loss:kd}"]
    plan, pool = swept(tmp_path, "sweep=rows", *rows), EpochByEpoch(run_of)
    assert not run_baseline(plan, pool, no_beat)
    assert "val_accuracy +10.00" in "".join(facts(load_sweep(plan.directory)))


def test_the_switch_is_true_or_false():
    with pytest.raises(ConfigError, match="sweep.baseline must be true or false, got 'x'"):
        make_plan("sweep.baseline=x")


def test_a_whole_sweep_has_it(tmp_path, monkeypatch, capsys):
    """By the pool that the sweep itself opens, after its last trial."""
    pool = EpochByEpoch(run_of)
    pool.close = no_beat
    monkeypatch.setattr("kd_research.sweep.opened_pool.instantiate", lambda *_, **__: pool)
    plan = make_plan(*SWEEP, f"output_dir={tmp_path}", "sweep.n_trials=2")
    for _ in range(2):
        run_sweep(plan)
    assert len(pool.started) == 3
    printed = capsys.readouterr().out
    assert printed.count("from labels alone, 1 seed each") == 2
    assert "labels alone" in printed
