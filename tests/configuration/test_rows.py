"""Fixed rows: composed, checked, run once each, gone on with, and reduced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from sweep_commands import folder, make_plan, proposals, sweep
from tiny import composed

from kd_research.configuration import rows
from kd_research.configuration.config import ConfigError

BASE = [
    "sweep=rows",
    "sweep.name=s",
    "sweep.seeds=2",
    "sweep.workers=2",
    "tracking=disabled",
    "sampler=random",
    "teacher=mlp",
    "teacher.model.width=8",
    "teacher.model.depth=1",
    "student.model.width=8",
    "+sweep.rows.plain.overrides={loss:ce,paper_rule:best_epoch}",
    "+sweep.rows.plain.expected.test_accuracy=0.5",
    "+sweep.rows.plain.selection='best on test'",
    "+sweep.rows.plain.tolerance=0.6",
    "+sweep.rows.soft.overrides={loss:kd,shift_classes:[3]}",
    "+sweep.rows.soft.expected.test_errors=10",
]


def test_a_tiny_paper_from_the_command_line_to_its_ledger(tmp_path: Path) -> None:
    short = ["teacher.trainer.max_epochs=1", "trainer.max_epochs=2"]
    code, printed = sweep(tmp_path, *short, base=BASE)
    assert code == 0, printed
    assert proposals(tmp_path) == {
        0: {"loss": "ce", "paper_rule": "best_epoch"},
        1: {"loss": "kd", "shift_classes": "[3]"},
    }
    ledger = (folder(tmp_path) / "ledger.md").read_text()
    assert "† (best on test)" in ledger
    assert "not comparable" in ledger  # the command line changed the rows' epochs
    config: Any = OmegaConf.load(folder(tmp_path) / "trials" / "0001" / "seed-1" / "config.yaml")
    assert config.seed == 1
    assert list(config.sweep.rows) == ["soft"]
    code, printed = sweep(tmp_path, *short, base=BASE)
    assert code == 0
    assert "all 2 trials are done" in printed
    code, printed = sweep(tmp_path, *short, "+sweep.rows.soft.overrides.seed=5", base=BASE)
    assert code == 1
    assert "choose another name" in printed


def test_what_is_wrong_with_rows_is_told_before_anything() -> None:
    wrong = ["+sweep.rows.soft.overrides.depht=3", "+sweep.rows.soft.expects.x=1"]
    wrong += ["+sweep.rows.soft.paired_with=[hard]", "sweep.budget.epochs=2", "+sweep.budget.d=1"]
    with pytest.raises(ConfigError) as told:
        make_plan(*BASE, *wrong, "loss.temperature=1,2")
    problems = "\n".join(told.value.problems)
    assert "unknown key depht" in problems
    assert "sweep.rows.soft has no expects" in problems
    assert "sweep.rows.soft.paired_with: there is no row hard" in problems
    assert "sweep.budget.epochs is a share, above 0 and at most 1, got 2" in problems
    assert "sweep.budget.d does not exist; a budget has epochs and data" in problems
    assert "no search space besides, got loss.temperature" in problems


def test_only_some_of_the_rows_are_run(tmp_path: Path) -> None:
    more = ["+sweep.rows.at_soft.overrides={loss:kd,loss.temperature:2}"]
    plan = make_plan(*BASE, *more, "sweep.only=[so*]", f"output_dir={tmp_path}")
    assert list(plan.rows) == ["soft"]
    assert plan.n_trials == 1
    plan.directory.mkdir(parents=True)
    plan.write()
    assert list(OmegaConf.load(plan.directory / "sweep.yaml").rows) == ["soft"]
    assert list(make_plan(*BASE, *more, "sweep.only=[at_soft,plain]").rows) == ["plain", "at_soft"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("sweep.only=[sofd]", "sweep.only: none of the 2 rows is called sofd; there are soft, ..."),
        (
            "sweep.only=soft",
            "sweep.only must be a list of rows, or null for all, got 'soft'; "
            "try 'sweep.only=[soft]'",
        ),
        (
            "sweep.paper={ranking:{metric:test_accuracy,spread:0.1}}",
            "sweep.paper.ranking needs at least 4 rows with an expected test_accuracy and a "
            "tolerance, of those that are run 1 have both; state "
            "sweep.rows.LABEL.expected.test_accuracy, or leave it out by sweep.paper.ranking=null",
        ),
    ],
)
def test_rows_to_run_and_to_rank_are_checked_before_anything(given: str, problem: str) -> None:
    with pytest.raises(ConfigError) as told:
        make_plan(*BASE, given)
    assert told.value.problems == [problem]


def test_questions_name_rows_that_there_are() -> None:
    asked = (
        "sweep.questions=[{text:a,rows:[plain,y],values:[val_ece]},"
        "{text:c,metric:val_nll,differences:{e:[soft]}},{text:f}]"
    )
    with pytest.raises(ConfigError) as told:
        make_plan(*BASE, asked)
    assert told.value.problems == [
        "sweep.questions[0]: there is no row y; there are: plain, soft",
        "sweep.questions[1].differences.e must be two rows, as in [distilled, plain]",
        "sweep.questions[2] needs text, and metric and differences, or rows and values",
    ]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("sweep.rows.soft.expected=0.75", "soft.expected must be values by their metrics"),
        ("+sweep.rows.soft.expected.test_acuracy=1", "did you mean test_accuracy? there are"),
        ("+sweep.rows.soft.tolerance={val_nll:1}", "nothing is expected of val_nll"),
        ("+sweep.rows.soft.tolerance=-1", "sweep.rows.soft.tolerance must be >= 0, got -1"),
        ("+sweep.rows.soft.paired_with=plain", "must be a list of rows, got 'plain'; try [plain]"),
        ("+sweep.rows.soft.paired_with=[soft]", "paired_with names the row itself"),
        ("+sweep.rows.soft.overrides.sweep.seeds=5", "sweep is the sweep's, not a row's"),
        ("sweep.budget=0.1", "sweep.budget has shares of epochs and data, got 0.1"),
        ("sweep.questions=[hello]", "sweep.questions[0] needs text, and metric"),
        ("sweep.questions=[{text:a,metric:val_nll,differences:3}]", "differences must be {name: ["),
        ("sweep.questions=[{text:a,rows:3,values:4}]", "sweep.questions[0].rows must be a list, g"),
        ("sweep.budget=3", "sweep.budget has shares of epochs and data, got 3"),
        ("sweep.rows.plain.expected.test_accuracy=75", "is a share from 0 to 1, got 75; try sweep"),
        ("sweep.rows.plain.expected.test_accuracy=nan", "test_accuracy must be a number, got nan"),
        (
            "sweep.rows.plain.overrides.loss=kdd",
            "there is no loss 'kdd'; did you mean loss: kd? ch",
        ),
        ("+sweep.rows.plain.overrides.sed=3", "unknown key sed; did you mean seed? a new key is"),
        (
            "++dataset={root: /nowhere, path: x}",
            "dataset.root=/nowhere is not a folder, nor a file",
        ),
        ("sweep.questions=[{rows:[soft],values:[b],text:a}]", "'b' is not measured"),
        ("sweep.paper=hello", "sweep.paper must be a mapping"),
        ("sweep.paper={tolerence:1}", "sweep.paper has no tolerence"),
        ("sweep.paper={tolerance:half}", "sweep.paper.tolerance must be a number, got 'half'"),
        ("sweep.paper={selection:last_epoch}", "sweep.paper.selection must be one of last epoch"),
        ("sweep.paper={claims:[{text:a,metric:val_nll,better:[soft]}]}", "claims[0] needs text"),
        ("sweep.paper={claims:[{text:a,metric:x,similar:[y],tolerance:1}]}", "no row y"),
        ("sweep.paper={claims:[{text:a,metric:x,similar:[soft],tolerance:1}]}", "[0] needs text"),
    ],
)
def test_what_a_report_could_not_read_is_told_before_anything(given: str, problem: str) -> None:
    with pytest.raises(ConfigError) as told:
        make_plan(*BASE, given)
    assert problem in "\n".join(told.value.problems)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_a_budget_scales_epochs_milestones_and_data(share: float) -> None:
    budget = f"sweep.budget={{epochs:{share},data:{share}}}"
    config = composed("sweep=rows", "scheduler=multistep", "scheduler.warmup=20", budget)
    rows.reduce(config)
    assert config.trainer.max_epochs == round(30 * share)
    assert config.teacher.trainer.max_epochs == round(30 * share)
    assert list(config.scheduler.milestones) == [round(n * share) for n in (150, 180, 210)]
    assert config.scheduler.warmup == round(20 * share)
    assert config.dataset.subset == (share if share < 1 else None)
    assert rows.reduced(config.sweep.budget) == (share < 1)


def test_a_budget_scales_what_follows_another_value_or_a_stage_once() -> None:
    first = "{epochs:20,weights:{kd:1},scheduler:${scheduler}}"
    second = "{epochs:4,of:30,weights:{kd:1},scheduler:{_target_:x,milestones:[10,20],warmup:10}}"
    typed = ["sweep=rows", "scheduler=multistep", "sweep.budget={epochs:0.5}"]
    typed += ["teacher.trainer.max_epochs=${trainer.max_epochs}"]
    typed += [f"+loss.stages.first={first}", f"+loss.stages.second={second}"]
    config = composed(*typed)
    rows.reduce(config)
    assert config.trainer.max_epochs == config.teacher.trainer.max_epochs == 15
    stages = config.loss.stages
    assert stages.first.epochs == 10
    assert list(stages.first.scheduler.milestones) == list(config.scheduler.milestones)
    assert list(config.scheduler.milestones) == [75, 90, 105]
    assert stages.second.epochs == 4, "they are counted by the training's"
    assert list(stages.second.scheduler.milestones) == [5, 10]
    assert stages.second.scheduler.warmup == 5


def test_what_changes_a_row_is_told_from_what_does_not() -> None:
    given = ["+sweeps=papers/x", "dataset.root=d", "tracking=disabled", "sweep.seeds=3"]
    other = ["trainer.max_epochs=3", "optimizer=sgd", "sweep.rows.kd.tolerance=1"]
    other += ["~dataset.augment", "soft_targets.views=1", "soft_targets.dtype=float16"]
    assert rows.changed([*given, *other]) == other


def test_rows_keep_the_types_of_their_values() -> None:
    config = composed("dataset=mnist")
    rows.apply(config, {"dataset.exclude_classes": [3], "loss.temperature": 2.5, "+optimizer.x": 1})
    assert config.dataset.exclude_classes == [3]
    assert config.loss.temperature == 2.5
    assert config.optimizer.x == 1
    with pytest.raises(ValueError, match="unknown key loss.tempreature"):
        rows.apply(config, {"loss.tempreature": 2})
