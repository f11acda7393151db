"""Nothing is taken for something else: folders, records, studies that were deleted or swapped."""

import json
import shutil

import optuna
import pytest
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from sweep_commands import folder, make_plan, scripted

from kd_research.configuration.config import ConfigError
from kd_research.records.record import RunRecord, read_record
from kd_research.sweep.opening import _is_unused, open_study
from kd_research.sweep.study import SharedStudy

SPACE = ["loss.temperature=interval(1,20)", "sweep.n_trials=3"]


def run(directory, teacher="weights A"):
    """A run that trains nothing: its value is its temperature."""
    config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    value = config["loss"]["temperature"]
    where = {"teacher_path": "/t/weights.pt", "teacher_fingerprint": teacher}
    metrics, costs = {"val_accuracy": 1 / value}, {"num_params": 100}
    return [], RunRecord("completed", config, config["seed"], metrics, costs, {}, where)


def make(output_dir, *overrides, run=run, **how):
    return scripted(output_dir, run, *SPACE, *overrides, **how)


def values(output_dir, name="study.db"):
    """Number -> what the study was told, of the trials that count."""
    storage = f"sqlite:///{folder(output_dir)}/{name}"
    trials = optuna.load_study(study_name="s", storage=storage).trials
    return {
        trial.number: (trial.params, trial.values, trial.state.name)
        for trial in trials
        if "discarded" not in trial.user_attrs
    }


@pytest.mark.parametrize(
    ("changed", "delete"),
    [
        (["sweep.storage=sqlite:///OTHER", "loss=dkd"], False),
        (["loss=dkd"], True),
        (["sweep.seed=5"], True),
        (["optimizer.lr=0.5"], True),
        (["+sweep.objectives.val_nll=minimize"], False),
    ],
)
def test_another_sweep_in_the_folder_is_refused(tmp_path, changed, delete):
    """The old records were told to the new proposals, in a second and with 0."""
    make(tmp_path)
    before = values(tmp_path)
    if delete:
        (folder(tmp_path) / "study.db").unlink()
    changed = [text.replace("OTHER", f"{tmp_path}/other.db") for text in changed]
    with pytest.raises(ConfigError, match="holds a sweep with other settings") as caught:
        make(tmp_path, *changed)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "other.db").exists()
    if not delete:
        assert values(tmp_path) == before
    else:
        assert not (folder(tmp_path) / "study.db").exists()


@pytest.mark.parametrize("storage", ["null", "sqlite:///DIR/elsewhere.db"])
def test_a_sweep_that_ended_before_its_first_trial_leaves_its_name_free(tmp_path, storage):
    """Refused while it was prepared, it had the corrected command choose another name."""
    storage = f"sweep.storage={storage.replace('DIR', str(tmp_path))}"
    first = make_plan(f"output_dir={tmp_path}", "sweep.name=s", storage, *SPACE, "loss=dkd")
    first.directory.mkdir(parents=True)
    with open_study(first), pytest.raises(ConfigError, match="holds a sweep with other settings"):
        make(tmp_path, storage)  # that one may still begin
    found, _ = make(tmp_path, storage)
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    with pytest.raises(ConfigError, match="holds a sweep with other settings"):
        make(tmp_path, storage, "loss=dkd")


def test_a_baseline_that_is_left_is_not_another_sweeps(tmp_path):
    """It is taken for its own by student and data alone, whatever else that one trained with."""
    first = make_plan(f"output_dir={tmp_path}", "sweep.name=s", *SPACE, "optimizer.lr=0.5")
    (first.directory / "baseline").mkdir(parents=True)
    with open_study(first):
        pass
    (first.directory / "study.db").unlink()  # and trials/
    with pytest.raises(ConfigError, match="holds a sweep with other settings"):
        make(tmp_path)


def test_nobody_opens_a_study_that_has_no_sweeper_yet(tmp_path, monkeypatch):
    """It looks like one that was left: the other one would delete it."""
    plan = make_plan(f"output_dir={tmp_path}", "sweep.name=s", *SPACE)
    plan.directory.mkdir(parents=True)
    enter, tried = SharedStudy.__enter__, []

    def late(self):
        with pytest.raises(Timeout), FileLock(plan.directory / "open.lock", timeout=0):
            pass
        tried.append(self)
        return enter(self)

    monkeypatch.setattr(SharedStudy, "__enter__", late)
    with open_study(plan) as study:
        assert tried == [study]
        assert not _is_unused(study)  # without a sign, as from another folder


@pytest.mark.parametrize("lost", ["deleted", "damaged", "elsewhere"])
def test_a_lost_study_is_rebuilt_from_the_folders_on_request(tmp_path, lost):
    make(tmp_path, "sweep.n_trials=4", slots=1, stop_after=3)  # two told, one unfinished
    shutil.rmtree(folder(tmp_path) / "trials" / "0000")
    before = {n: told for n, told in values(tmp_path).items() if n}
    storage = []
    if lost == "deleted":
        (folder(tmp_path) / "study.db").unlink()
    elif lost == "damaged":
        (folder(tmp_path) / "study.db").write_bytes(b"no database at all" * 100)
        for more in folder(tmp_path).glob("study.db-*"):
            more.unlink()
    else:
        storage = [f"sweep.storage=sqlite:///{folder(tmp_path)}/other.db"]
    started = []

    def watched(directory):
        started.append(directory.name)
        return run(directory)

    with pytest.raises(ConfigError, match=r"type sweep\.rebuild=true"):
        make(tmp_path, "sweep.n_trials=4", *storage)
    found, _ = make(tmp_path, "sweep.n_trials=4", "sweep.rebuild=true", *storage, run=watched)
    assert "0001" not in started, "its record is told, not made again"
    after = values(tmp_path, "other.db" if storage else "study.db")
    assert {n: after[n] for n in before if before[n][2] == "COMPLETE"} == {
        n: told for n, told in before.items() if told[2] == "COMPLETE"
    }
    assert len([told for told in after.values() if told[2] == "COMPLETE"]) == 4
    for trial in found.trials:
        assert trial.mean("val_accuracy") == pytest.approx(after[trial.number][1][0])
        assert trial.params == after[trial.number][0]


def test_a_proposal_that_was_renamed_or_lost_is_refused(tmp_path):
    make(tmp_path, slots=1, stop_after=2)
    trials = folder(tmp_path) / "trials"
    kept = json.loads((trials / "0001" / "proposal.json").read_text())
    shutil.rmtree(trials / "0001")
    shutil.copytree(trials / "0000", trials / "0001")  # with its record
    with pytest.raises(ConfigError, match=r"0001 holds another trial .* its number is 0, not 1"):
        make(tmp_path)
    (trials / "0001" / "proposal.json").unlink()
    with pytest.raises(ConfigError, match=r"0001 holds a record without proposal.json"):
        make(tmp_path)
    (trials / "0001" / "proposal.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"0001/record.json was made by another configuration"):
        make(tmp_path)
    (trials / "0001" / "record.json").unlink()
    make(tmp_path)
    assert len(values(tmp_path)) == 3
    for number, (params, told, _) in values(tmp_path).items():
        record = read_record(trials / f"{number:04d}")
        assert record.config["loss"]["temperature"] == params["loss.temperature"]
        assert told[0] == record.metrics["val_accuracy"]


@pytest.mark.parametrize("config", [{}, {"seed": 0}])
def test_a_result_without_a_configuration_is_nobodys(tmp_path, config):
    """It was told to whatever trial had its number."""
    make(tmp_path, slots=1, stop_after=2)
    path = folder(tmp_path) / "trials" / "0001" / "record.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    kept = json.loads((folder(tmp_path) / "trials" / "0000" / "record.json").read_text())
    path.write_text(json.dumps({**kept, **record, "config": config}))
    with pytest.raises(ConfigError, match=r"0001/record.json was made by another configuration"):
        make(tmp_path)


def test_a_trial_of_another_sweep_is_refused(tmp_path):
    """Of the same space, but with other weights behind it."""
    make(tmp_path / "a", slots=1, stop_after=2)
    make(tmp_path / "b", "optimizer.lr=0.5")
    trial = folder(tmp_path / "a") / "trials" / "0001" / "proposal.json"
    other = json.loads((folder(tmp_path / "b") / "trials" / "0001" / "proposal.json").read_text())
    trial.write_text(json.dumps({**json.loads(trial.read_text()), "sweep": other["sweep"]}))
    with pytest.raises(ConfigError, match="0001 holds a trial of another sweep"):
        make(tmp_path / "a")


def test_a_teacher_that_changes_within_a_sweep_is_noticed(tmp_path):
    make(tmp_path, slots=1, stop_after=2)
    with pytest.raises(ConfigError, match=r"trial \d learned from other weights than the trials"):
        make(tmp_path, run=lambda directory: run(directory, "weights B"))
    assert sum(told[2] == "COMPLETE" for told in values(tmp_path).values()) <= 2


def test_one_objective_more_is_refused_before_the_study_is_touched(tmp_path):
    make(tmp_path)
    (folder(tmp_path) / "fingerprint.json").unlink()  # a sweep of before: the study alone knows
    with pytest.raises(ConfigError, match=r"objectives.macs: None there, minimize now"):
        make(tmp_path, "+sweep.objectives.macs=minimize")
    storage = f"sqlite:///{folder(tmp_path)}/study.db"
    names = optuna.load_study(study_name="s", storage=storage).metric_names
    assert names == ["val_accuracy", "num_params"]


@pytest.mark.parametrize("name", ["OUT?x", "a#b", "50%", "x y"])
def test_the_study_lies_in_its_folder_whatever_that_is_called(tmp_path, name):
    output_dir = tmp_path / name
    plan = make_plan(
        f"output_dir='{output_dir}'", "sampler=random", "sweep.name=s", "tracking=disabled", *SPACE
    )
    plan.directory.mkdir(parents=True)
    with open_study(plan):
        pass
    assert (plan.directory / "study.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
