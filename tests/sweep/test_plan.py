"""What a command line asks for, before any process is started."""

import json
import random

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from sweep_commands import folder, make_plan, scripted
from tiny import composed

from kd_research.configuration.config import ROOT, ConfigError, save
from kd_research.configuration.environment import writable
from kd_research.configuration.search_ranges import LOSSES as LOSS_FILES
from kd_research.configuration.search_ranges import read
from kd_research.configuration.teacher_content import teacher_content
from kd_research.records.record import RunRecord
from kd_research.sweep.folders import Folders
from kd_research.sweep.plan import differences
from kd_research.sweep.probe import notes


def space(plan):
    return {item.key: item.distribution for item in plan.space}


def test_a_fixed_override_takes_its_key_out_of_the_space():
    assert "loss.temperature" in space(make_plan())
    plan = make_plan("loss.temperature=3")
    assert "loss.temperature" not in space(plan)
    assert plan.composition.compose({"loss.lambda": 0.25}).loss.temperature == 3


def test_a_swept_override_replaces_or_extends_the_space():
    plan = make_plan("student.model.width=int(interval(2,6))", "optimizer.lr=0.1,0.2")
    assert space(plan)["student.model.width"] == IntDistribution(2, 6)
    assert space(plan)["optimizer.lr"] == CategoricalDistribution([0.1, 0.2])
    assert len(plan.space) == 5


@pytest.mark.parametrize("form", ["typed", "stated"])
def test_a_key_that_waits_for_a_value_may_be_searched(form, tmp_path):
    one, other = (tmp_path / name for name in ("one", "other"))
    for width, run in ((8, one), (16, other)):
        run.mkdir()
        save(composed(f"student.model.width={width}"), run / "config.yaml")
        (run / "weights.pt").write_bytes(b"weights")
    text = f"{one},{other}"
    given = f"teacher.run={text}" if form == "typed" else f"+sweep.space.teacher.run=[{text}]"
    plan = make_plan("teacher=run", given)
    assert space(plan)["teacher.run"] == CategoricalDistribution([str(one), str(other)])
    found = plan.composition.compose({"teacher.run": str(other)})
    assert found.teacher.model.width == 16
    with pytest.raises(ConfigError, match=f"in the search space: teacher.run={tmp_path} is no run"):
        make_plan("teacher=run", f"teacher.run={one},{tmp_path}")
    with pytest.raises(ConfigError, match="dataset.num_classes has no value"):
        make_plan("dataset=table", "dataset.input_shape=[2],[3]")


@pytest.mark.parametrize("searched", ["student.model.width=8,16", "student.checkpoint=8.pt,16.pt"])
def test_a_searched_path_is_absolute_and_its_trials_own(searched, tmp_path, monkeypatch):
    """One that refers to what is searched was that of the configuration, in every trial."""
    monkeypatch.chdir(tmp_path)
    key, _, values = searched.partition("=")
    for value in (8, 16, 32):
        (tmp_path / f"{value}.pt").touch()
    refers = ["student.checkpoint=${student.model.width}.pt"] if key.endswith("width") else []
    plan = make_plan(searched, *refers)
    for value in space(plan)[key].choices:
        params = {"loss.temperature": 4.0, "loss.lambda": 0.5, key: value}
        own = str(tmp_path / f"{str(value).removesuffix('.pt')}.pt")
        assert plan.composition.compose(params).student.checkpoint == own
        assert plan.composition.written(params, 0, {})["student"]["checkpoint"] == own


def test_a_config_group_is_a_dimension():
    plan = make_plan("loss=choice(kd,logit_mse)", "optimizer.lr=0.5")
    config = plan.composition.compose({"loss": "logit_mse", "student.model.width": 5})
    assert list(config.loss.terms) == ["logit_mse"]
    assert config.optimizer.lr == 0.5
    assert config.student.model.width == 5
    assert "hydra" not in config


@pytest.mark.parametrize("group", [(), ("loss=choice(kd,prob_mse)",)])
def test_proposals_keep_their_type(group):
    plan = make_plan("+label=choice('1','a b','it\\'s')", "+extra=[8,16],[32]", "seed=1,2", *group)
    values = plan.composition.compose(
        {
            "label": "it's",
            "extra": "[8,16]",
            "seed": 2,
            **dict.fromkeys(group and ["loss"], "kd"),
        }
    )
    assert values.label == "it's"
    assert values.extra == [8, 16]
    assert values.seed == 2


def test_every_problem_of_a_sweep_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        make_plan(
            "~sweep.objectives.val_accuracy",
            "+sweep.objectives.val_acuracy=maximize",
            "loss.temperature=interval(-1,20)",
            "loss.lambda=interval(2,1)",
            "student.model.depth=range(3,3)",
        )
    text = str(caught.value)
    assert "unknown objective val_acuracy; did you mean val_accuracy?" in text
    assert "loss.temperature must be > 0, got -1" in text
    assert "sweep.space: loss.lambda=interval(2,1) is no search dimension" in text
    assert "sweep.space: student.model.depth=range(3,3) is no search dimension" in text


def test_an_empty_space_is_refused():
    names = [
        "loss.temperature=1",
        "loss.lambda=0",
        "student.model.width=4",
        "student.model.depth=1",
    ]
    for overrides in (names, ["sweep.space=null"], ["sweep.space={}"]):
        with pytest.raises(ConfigError, match="the search space is empty: give sweep.space"):
            make_plan(*overrides)


def test_a_wrong_value_is_not_told_once_more_for_each_end_of_the_space():
    with pytest.raises(ConfigError) as caught:
        make_plan("loss.temperature=0")
    assert caught.value.problems == ["loss.temperature must be > 0, got 0; try loss.temperature=4"]


def test_a_sampler_that_cannot_be_made_is_told():
    for override in ("sampler._target_=optuna.samplers.Nope", "+sampler.nope=1"):
        with pytest.raises(ConfigError, match="sampler: .*; try sampler=tpe"):
            make_plan(override)


def test_what_differs_between_two_sweeps_is_named():
    known = make_plan("optimizer.lr=0.1").fingerprint()
    assert (
        known == make_plan("optimizer.lr=0.1", "sweep.n_trials=99", "output_dir=/x").fingerprint()
    )
    wanted = make_plan("optimizer.lr=0.2").fingerprint()
    assert differences(known, wanted) == [
        "optimizer.lr: 0.1 there, 0.2 now",
        "teacher.optimizer.lr: 0.1 there, 0.2 now",
    ] or differences(known, wanted) == ["optimizer.lr: 0.1 there, 0.2 now"]


def test_constraints_and_first_proposals_are_checked():
    plan = make_plan(
        "sweep.constraints=['num_params <= 2e4']",
        "sweep.start_from=[{loss.temperature: 4, loss.lambda: 0.9}]",
    )
    assert [limit.excess(20001) for limit in plan.constraints] == [1]
    assert plan.start_from == [{"loss.temperature": 4, "loss.lambda": 0.9}]
    with pytest.raises(ConfigError) as caught:
        make_plan(
            "sweep.constraints=['num_params < 3', 'size <= 3']",
            "sweep.start_from=[{loss.temperature: 40, loss.scale: 1}]",
        )
    assert "sweep.constraints: 'num_params < 3' is no limit" in str(caught.value)
    assert "sweep.constraints: unknown size; there are: val_accuracy" in str(caught.value)
    assert "loss.temperature=40 is outside of tag(log, interval(1, 20))" in str(caught.value)
    assert "sweep.start_from: loss.scale is not searched" in str(caught.value)


def test_a_dimension_exists_only_where_the_configuration_has_it():
    plan = make_plan("loss=choice(kd,dkd)")
    asked = []

    def propose(loss):
        def suggest(key):
            asked.append(key)
            return loss if key == "loss" else 1

        return plan.composition.propose(suggest)

    assert "loss.temperature" in propose("kd")
    assert "loss.temperature" in propose("dkd")
    plan = make_plan("loss=choice(kd,logit_mse)")
    assert "loss.temperature" in propose("kd")
    assert "loss.temperature" not in propose("logit_mse")
    assert plan.composition.is_complete(propose("logit_mse"))
    assert not plan.composition.is_complete({"loss": "kd"})


def test_a_key_that_only_another_choice_has_is_searched_with_that_choice_alone():
    space = ("loss=kd,dkd", "loss.non_target_weight=interval(1,8)")
    plan = make_plan("sampler=gp", *space)
    proposed = {
        choice: plan.composition.propose(lambda key, choice=choice: choice if key == "loss" else 2)
        for choice in ("kd", "dkd")
    }
    assert "loss.non_target_weight" not in proposed["kd"]
    assert plan.composition.compose(proposed["dkd"]).loss.non_target_weight == 2
    assert plan.composition.is_complete(proposed["kd"])
    (note,) = notes(plan.composition, plan.constraints)
    assert note.startswith("note: loss.non_target_weight, loss.lambda: there for some choices only")
    plan = make_plan("sampler=tpe", *space)
    assert notes(plan.composition, plan.constraints) == []


def test_a_key_of_no_choice_and_an_endless_grid_are_told():
    with pytest.raises(ConfigError) as told:
        make_plan("loss=kd,dkd", "loss.tempratur=interval(1,8)", "sampler=grid")
    assert "no configuration of this search has loss.tempratur; did you mean loss." in str(
        told.value
    )
    assert "loss.lambda=interval(0, 1) has no end of them; try loss.lambda=choice" in str(
        told.value
    )


@pytest.mark.parametrize(("sampler", "deaf"), [("gp", 0), ("tpe", 0), ("nsga2", 0), ("qmc", 1)])
def test_a_sampler_that_hears_of_no_limits_says_so(sampler, deaf):
    plan = make_plan(f"sampler={sampler}", "sweep.constraints=['num_params <= 900']")
    assert (
        len(
            [
                note
                for note in notes(plan.composition, plan.constraints)
                if "num_params <= 900" in note
            ]
        )
        == deaf
    )


def test_a_sweep_of_rows_is_of_as_many_trials_as_rows(tmp_path):
    def run(directory):
        return [], RunRecord("completed", {}, 0, {"val_accuracy": 0.5})

    rows = ["+sweep.rows.a.overrides={loss:ce}", "+sweep.rows.b.overrides={loss:kd}"]
    what = [tmp_path, run, "sweep=rows", "sweep.seeds=1", *rows]
    stopped, _ = scripted(*what, stop_after=0)
    assert stopped.n_trials == 2
    path = folder(tmp_path) / "sweep.yaml"
    path.write_text(path.read_text().replace("n_trials: 2", "n_trials: 1"))  # as it was before
    done, _ = scripted(*what)
    assert (done.n_trials, done.counts["completed"]) == (2, 2)


LOSSES = sorted(path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml"))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_searched_in_its_own_range(loss):
    file = LOSS_FILES / f"{loss}.yaml"
    on_maps = "[stages" in file.read_text(encoding="utf-8")  # which an MLP has not: it is told
    draws = "/text@text" in file.read_text(encoding="utf-8")  # and digits are no text
    language = ["dataset=tinyshakespeare", "teacher=gpt", "student=gpt"]
    student = ["student=cnn"] if on_maps else language if draws else []
    student = ["student=soft_tree"] if loss == "soft_tree" else student
    plan = make_plan(f"loss={loss}", *student)
    wanted = {f"loss.{item.key}": item.expression for item in read(LOSS_FILES / f"{loss}.yaml")}
    found = {item.key: item.expression for item in plan.space if item.key.startswith("loss.")}
    assert found == wanted
    others = {"student.model.depth"} if not on_maps else set()
    others |= {"student.model.width"} if not draws else set()  # a decoder's is above the range
    others = set() if loss == "soft_tree" else others  # its depth is not a net's
    assert space(plan).keys() - found.keys() == others
    if on_maps:  # two nets of other depths have maps of other sizes
        assert plan.notes[0].startswith("note: student.model.depth is not searched: the loss comp")
        assert "student.model.depth" in space(
            make_plan(f"loss={loss}", "student=cnn", "student.model.depth=range(3,5)")
        )


def test_losses_in_one_sweep_keep_their_own_ranges():
    plan = make_plan("loss=kd,at,rkd", "student=cnn", "student.model.width=4")
    asked = []
    proposed = {}
    for choice in ("kd", "at", "rkd"):

        def suggest(key, choice=choice):
            asked.append(key)
            low = plan.space[[item.key for item in plan.space].index(key)].probes()[0]
            return choice if key == "loss" else low

        proposed[choice] = plan.composition.propose(suggest)
        assert plan.composition.is_complete(proposed[choice])
    composed = {choice: plan.composition.compose(p).loss for choice, p in proposed.items()}
    assert composed["kd"]["lambda"] == 0
    assert composed["at"]["lambda"] == 100
    assert composed["rkd"]["lambda"] == 0.1
    assert "temperature" not in composed["at"]
    _, settings = plan.composition.described(proposed["at"])
    assert settings["loss.lambda"] == 100  # whatever the study calls it
    start = ["sweep.start_from=[{loss: at, loss.lambda: 1000, student.model.depth: 1}]"]
    known = make_plan("loss=kd,at", "student=cnn", "student.model.width=4", *start)
    assert known.start_from == [{"loss": "at", "loss.lambda (at)": 1000, "student.model.depth": 1}]
    plain = make_plan("loss=kd,at", "student=cnn", "loss.lambda=interval(0.1,1)")
    assert [item.key for item in plain.space if "lambda" in item.key] == ["loss.lambda"]


def test_a_default_outside_its_own_range_is_told():
    with pytest.raises(ConfigError, match=r"loss.lambda=1000.0 is outside of interval\(0, 1\)"):
        make_plan("loss=at", "student=cnn", "loss.search={lambda: 'interval(0, 1)'}")
    make_plan("loss=at", "student=cnn", "loss.lambda=interval(0,1)")  # a person's own word


def test_what_the_default_sweep_cannot_search_is_left_out_with_a_note():
    plan = make_plan("student=resnet20", "dataset=cifar10", "teacher=resnet56")
    assert space(plan).keys() == {"loss.temperature", "loss.lambda", "student.model.width"}
    (note,) = plan.notes
    assert note.startswith("note: student.model.depth is not searched: it is 20 here")
    (note,) = make_plan("student=mobilenetv2", "dataset=cifar10").notes
    assert note == "note: student.model.depth is not searched: this configuration has none"
    with pytest.raises(ConfigError, match=r"has student\.model\.wdth"):
        make_plan("student=resnet20", "student.model.wdth=1,2")


def test_a_dimension_is_taken_out_by_a_tilde():
    plan = make_plan("~sweep.space.loss.temperature")
    assert "loss.temperature" not in space(plan)
    assert plan.composition.compose({"loss.lambda": 0.5}).loss.temperature == 4


@pytest.mark.parametrize(
    ("swept", "kept"),
    [
        ("trainer.gradient_clip_val=0.1,1,null", None),
        ("trainer.precision=32-true,bf16-mixed", "32-true"),
        ("+trainer.accumulate_grad_batches=2,4", 1),  # Lightning's own default
        ("dataset.batch_size=32,128", 64),
        ("dataset.subset=0.1,0.5", None),
        ("dataset.exclude_classes=[3],[7]", []),
    ],
)
def test_what_is_searched_moves_the_student_alone(swept, kept):
    """Six teachers for six settings: the student's effect could not be told from the teacher's."""
    plan = make_plan(swept)
    (item,) = [each for each in plan.space if each.key == swept.lstrip("+").partition("=")[0]]
    composed = [plan.composition.compose({item.key: value}) for value in item.probes()]
    contents = [teacher_content(config) for config in composed]
    assert all(content == contents[0] for content in contents)
    part, name = item.key.split(".")
    assert all(config.teacher[part][name] == kept for config in composed)
    assert len({str(config[part][name]) for config in composed}) == len(composed)
    (note,) = notes(plan.composition, plan.constraints)
    assert note == (
        f"note: {item.key} is varied for the student alone, its teacher keeps {json.dumps(kept)}; "
        f"'+teacher.{item.key}=${{{item.key}}}' lets it follow"
    )


def test_groups_and_rows_move_the_student_alone_too():
    plan = make_plan("augment@dataset.augment=none,imagenet", "trainer=default,nanogpt")
    base = plan.composition.compose({})
    found = [
        plan.composition.compose({"augment@dataset.augment": augment, "trainer": trainer})
        for augment in ("none", "imagenet")
        for trainer in ("default", "nanogpt")
    ]
    for config in found:
        trained = teacher_content(config)
        assert trained["dataset"]["augment"].pop("resized_crop", None) is None
        assert trained["trainer"].pop("limit_train_batches", None) is None
        assert trained == {**teacher_content(base), "teacher": trained["teacher"]}
    assert "resized_crop" in found[2].dataset.augment
    row = "+sweep.rows={a: {overrides: {trainer.precision: bf16-mixed}}, b: {overrides: {}}}"
    rows = make_plan("sweep=rows", row)
    clipped, plain = (rows.composition.compose({"row": label}) for label in "ab")
    assert clipped.trainer.precision == "bf16-mixed"
    assert teacher_content(clipped)["trainer"] == teacher_content(plain)["trainer"]
    assert "note: trainer.precision is varied for the student alone" in rows.all_notes()[0]


def test_a_teacher_follows_where_that_is_said_and_what_moves_both_is_told():
    plan = make_plan(
        "dataset.batch_size=32,128", "+teacher.dataset.batch_size=${dataset.batch_size}"
    )
    config = plan.composition.compose({"dataset.batch_size": 128})
    assert teacher_content(config)["dataset"]["batch_size"] == 128
    moved = "note: {} changes the teacher too: what it does to the student is also what it does"
    assert plan.all_notes()[0].startswith(moved.format("dataset.batch_size"))
    cut = make_plan("dataset.split_seed=0,1")  # a teacher of another cut has seen the test split
    assert cut.all_notes()[0].startswith(moved.format("dataset.split_seed"))


@pytest.mark.parametrize(
    "swept",
    [
        ("optimizer.lr=0.1,0.2", "loss=kd,dkd", "seed=1,2"),
        ("trainer.gradient_clip_val=0.1,1", "+teacher.trainer.gradient_clip_val=null"),
        ("dataset.batch_size=32,128", "+teacher.dataset={batch_size: 64}"),
        ("teacher.seed=0,1",),
    ],
)
def test_a_student_s_own_settings_leave_the_teacher_alone(swept):
    plan = make_plan("sampler=tpe", *swept)
    assert notes(plan.composition, plan.constraints) == []


@pytest.mark.parametrize(
    "space",
    [
        ["loss.temperature=interval(1,9)", "student.model.width=range(8,64)"],
        ["loss=choice(kd,dkd,ce)", "student=choice(mlp,cnn)", "loss.temperature=interval(1,9)"],
        ["seed=choice(3,4)", "loss.lambda=interval(0,1)", "+loss.more=choice(1,2)"],
        [
            "dataset.batch_size=choice(16,32)",
            "optimizer.lr=interval(0.1,1)",
        ],  # held for the teacher
    ],
)
def test_what_is_written_of_a_proposal_is_what_it_composes_to(space, tmp_path):
    """In whatever order proposals come: one configuration takes the values of all of them."""
    plan = make_plan(*space, f"output_dir={tmp_path}", "sweep.seeds=2")
    folders, draw = Folders(plan), random.Random(0)
    for number in range(12):
        asked = {item.key: draw.choice(item.probes()) for item in plan.space}
        params = plan.composition.propose(asked.__getitem__)
        expected = {path: writable(c) for path, c in folders.configs(number, params).items()}
        assert folders.written(number, params) == expected
