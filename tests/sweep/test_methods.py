"""Methods on equal terms: tuned on validation alone, then run on fresh seeds, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import HerePool
from omegaconf import OmegaConf
from sweep_commands import make_plan

from kd_research.configuration.config import ConfigError
from kd_research.configuration.teacher_content import teacher_content
from kd_research.sweep.methods import Comparison

BASE = [
    "sweep=methods",
    "sweep.name=s",
    "sweep.n_trials=2",
    "sweep.final_seeds=2",
    "sweep.workers=2",
    "sweep.against=[kd,ce]",
    "+sweep.space={optimizer.lr:'interval(0.001,0.1)'}",
    "+sweep.methods.ce.overrides={loss:ce}",
    "+sweep.methods.kd.overrides={loss:kd,loss.lambda:0.5}",
    "+sweep.methods.kd.space={loss.temperature:'interval(1,20)'}",
    "tracking=disabled",
    "sampler=random",
    "teacher=mlp",
    "teacher.model.width=8",
    "teacher.model.depth=1",
    "teacher.trainer.max_epochs=1",
    "trainer.max_epochs=1",
    "student.model.width=8",
    "efficiency.num_runs=5",
]


def records(directory: Path) -> dict[str, tuple[float, dict[str, Any]]]:
    """Of every run below: when its record was written, and the record."""
    return {
        str(path.parent.relative_to(directory)): (
            path.stat().st_mtime,
            json.loads(path.read_text()),
        )
        for path in sorted(directory.rglob("record.json"))
    }


def test_a_tiny_comparison_stopped_gone_on_with_and_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ["pool._target_=in_process.HerePool", "~pool.program", f"output_dir={tmp_path}"]
    directory = tmp_path / "sweeps" / "s"
    monkeypatch.setattr(HerePool, "num_runs", 0)
    monkeypatch.setattr(HerePool, "stop_after", 3)
    with pytest.raises(KeyboardInterrupt):
        make_plan(*BASE, *here, kind=Comparison).run()
    before = records(directory)
    assert len(before) == 3
    monkeypatch.setattr(HerePool, "stop_after", None)
    make_plan(*BASE, *here, kind=Comparison).run()
    found = records(directory)
    assert HerePool.num_runs == len(found) == 8
    assert before.items() <= found.items()
    for name, (_, record) in found.items():
        assert record["status"] == "completed"
        tuned = name.startswith("tuning/")
        assert record["seed"] == 0 if tuned else record["seed"] in (1, 2)
        assert tuned == (not [metric for metric in record["metrics"] if "test" in metric])
        assert record["costs"]["train_step_bytes"] > 0
        assert record["costs"]["train_epoch_cpu_seconds"] > 0
    page = (directory / "methods.md").read_text()
    assert "- Tuning trials: 2 of each method; seeds 0." in page
    assert "- Final runs: seeds 1, 2." in page
    assert (directory / "tuning.svg").is_file()
    capsys.readouterr()
    make_plan(*BASE, *here, kind=Comparison).run()
    assert capsys.readouterr().out.count("trials are done") == 3
    with pytest.raises(ConfigError, match=r"got sweep.n_trials=3: choose another name"):
        make_plan(*BASE, *here, "sweep.n_trials=3", kind=Comparison)
    assert records(directory) == found


def test_the_best_setting_and_fresh_seeds_become_the_final_rows(tmp_path: Path) -> None:
    comparison = make_plan(*BASE, f"output_dir={tmp_path}", "seed=4", kind=Comparison)
    tuning = comparison.tunings["kd"]
    assert tuning.start_from == [{"optimizer.lr": 0.003, "loss.temperature": 4.0}]
    assert tuning.config.loss["lambda"] == 0.5
    assert not tuning.config.read_test
    assert [item.key for item in comparison.tunings["ce"].space] == ["optimizer.lr"]
    assert {plan.n_trials for plan in comparison.tunings.values()} == {2}
    final = comparison.final({"ce": {"optimizer.lr": 0.01}, "kd": {"loss.temperature": 7.0}})
    assert (final.config.seed, final.config.sweep.seeds, final.n_trials) == (5, 2, 2)
    assert final.config.read_test
    kd = final.composition.compose({"row": "kd"})
    assert (kd.loss.temperature, kd.loss["lambda"], kd.optimizer.lr) == (7.0, 0.5, 0.003)
    assert final.composition.compose({"row": "ce"}).optimizer.lr == 0.01
    assert (tmp_path / "sweeps" / "s" / "sweep.yaml").is_file()  # the report reads it by now


def test_a_group_in_the_space_leaves_the_rest_of_a_tuning_as_it_is(tmp_path: Path) -> None:
    group = "+sweep.methods.kd.space={optimizer:'choice(adamw,sgd)'}"
    given = [*BASE, group, "paper_rule=last_epoch", f"output_dir={tmp_path}"]
    tuning = make_plan(*given, kind=Comparison).tunings["kd"]
    sgd = tuning.composition.compose({"optimizer": "sgd", "loss.temperature": 3.0})
    assert (sgd.optimizer._target_, sgd.loss.temperature) == ("torch.optim.SGD", 3.0)
    assert (sgd.read_test, sgd.paper_rule, sgd.loss["lambda"]) == (False, None, 0.5)
    assert sgd.sweep == tuning.config.sweep
    lacking = [
        "+sweep.methods.kd.overrides={scheduler.T_max:5}",
        "+sweep.methods.kd.space={scheduler:'choice(cosine,multistep)'}",
        "+sweep.methods.kd.space={scheduler.gamma:'interval(0.1,0.9)'}",
    ]
    with pytest.raises(ConfigError, match=r"sweep.methods.kd: unknown key scheduler.T_max"):
        make_plan(*given, *lacking, kind=Comparison)


def test_a_method_s_trainer_leaves_its_teacher_alone_and_that_is_told(tmp_path: Path) -> None:
    given = "+sweep.methods.ce.overrides={loss:ce,trainer.precision:bf16-mixed}"
    comparison = make_plan(*BASE, given, f"output_dir={tmp_path}", kind=Comparison)
    final = comparison.final({"ce": {}, "kd": {}}).composition
    tuned = [plan.composition.compose({}) for plan in comparison.tunings.values()]
    rows = [final.compose({"row": name}) for name in comparison.tunings]
    assert [config.trainer.precision for config in tuned] == ["bf16-mixed", "32-true"]
    contents = [teacher_content(config)["trainer"] for config in (*tuned, *rows)]
    assert all(content == contents[0] for content in contents)
    told = "note: trainer.precision is varied for the student alone"
    assert any(note.startswith(told) for note in comparison.notes())


def test_the_command_line_sets_nothing_that_a_method_sets(tmp_path: Path) -> None:
    given = [*BASE, f"output_dir={tmp_path}"]
    clashing = ["~pool.program", "loss.lambda=0.9", "loss=dkd", "loss.temperature=interval(2,5)"]
    with pytest.raises(ConfigError) as told:
        make_plan(*given, *clashing, kind=Comparison)
    assert [line.split(" is set by ")[0] for line in told.value.problems] == [
        "loss.lambda=0.9: loss.lambda",
        "loss=dkd: loss",
        "loss.temperature=interval(2,5): loss.temperature",
    ]
    assert "loss is set by sweep.methods.ce, kd; leave it out" in told.value.problems[1]
    assert not (tmp_path / "sweeps" / "s").exists()
    instead = [line.split('"')[1] for line in told.value.problems]
    comparison = make_plan(*given, instead[0], instead[2], kind=Comparison)
    final = comparison.final({"ce": {}, "kd": {}})
    assert final.composition.compose({"row": "kd"}).loss["lambda"] == 0.9
    assert comparison.tunings["kd"].config.loss["lambda"] == 0.9
    assert comparison.tunings["kd"].space[1].expression == "interval(2,5)"


def test_what_is_wrong_with_methods_is_told_at_once(tmp_path: Path) -> None:
    first = ["+sweep.methods.x.space={}", "sweep.against=[kd,nope]", "+sweep.methods.kd.weight=1"]
    with pytest.raises(ConfigError) as told:
        make_plan(*BASE, *first, f"output_dir={tmp_path}", kind=Comparison)
    text = "\n".join(told.value.problems)
    assert "sweep.methods.x needs overrides" in text
    assert "sweep.methods.kd has no weight" in text
    assert "sweep.against: nope is no method; there are: ce, kd" in text
    null = ["sweep.against=kd", "sweep.objectives=null", "sweep.metric=test_acuracy"]
    with pytest.raises(ConfigError) as told:
        make_plan(
            *BASE, *null, "sweep.final_seeds=0", "++sweep.methods.kd.space=x", kind=Comparison
        )
    for line, start in zip(
        told.value.problems,
        [
            "sweep.methods.kd.space must be keys and what is searched, got 'x'; try ",
            "sweep.against must be a list of methods, got 'kd'; try sweep.against=[kd]",
            "sweep.metric: unknown metric test_acuracy; did you mean test_accuracy? there are: ",
            "sweep.final_seeds must be a whole number >= 1, got 0; try sweep.final_seeds=10",
            "sweep.methods tunes for one objective, got sweep.objectives=None; try ",
        ],
        strict=True,
    ):
        assert line.startswith(start)
    with pytest.raises(ConfigError) as told:
        make_plan("sweep=methods", "sweep.methods=null", "sweep.against=null", kind=Comparison)
    first, second = told.value.problems
    assert first.startswith("sweep.methods must name the methods, got None; try '+sweep.methods.kd")
    assert second.startswith("sweep.against must be a list of methods, got None; try sweep.against")
    wrong = [
        "+sweep.methods.dkd.overrides={loss:dkd,loss.temperature:40}",
        "+sweep.methods.dkd.space={loss.temperature:'interval(1,20)'}",
        "+sweep.methods.no.overrides={loss:nope}",
        "+sweep.methods.typo.overrides={loss:kd,loss.temprature:2}",
    ]
    with pytest.raises(ConfigError) as told:
        make_plan(*BASE, *wrong, f"output_dir={tmp_path}", kind=Comparison)
    text = "\n".join(told.value.problems)
    assert "sweep.methods.dkd: its own default loss.temperature=40 is outside of" in text
    assert "sweep.methods.no: " in text
    assert "sweep.methods.typo: unknown key loss.temprature" in text
    assert not (tmp_path / "sweeps" / "s").exists()


def test_the_shipped_comparison_composes(tmp_path: Path) -> None:
    given = ["+sweeps=compare_methods", f"output_dir={tmp_path}"]
    comparison = make_plan(*given, kind=Comparison)
    assert len(comparison.tunings) == 10
    for plan in comparison.tunings.values():
        config: Any = OmegaConf.to_container(
            plan.composition.compose(plan.start_from[0]), resolve=True
        )
        assert plan.n_trials == 16
        assert config["student"]["model"]["width"] == 6
