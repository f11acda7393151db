"""The study that sweepers share, without any process."""

import math

import optuna
import pytest
from hydra.utils import instantiate
from sweep_commands import make_plan

from kd_research.sweep import storage
from kd_research.sweep.proposals import Proposals, points
from kd_research.sweep.space import suggest
from kd_research.sweep.storage import open_storage
from kd_research.sweep.study import SharedStudy

SMALL = (
    "student.model.width=4,8",
    "student.model.depth=1,2",
    "loss.lambda=0",
    "loss.temperature=1",
)

CONDITIONAL = ("student.model.width=4,8", "student.model.depth=1", "loss.lambda=0.5")


def open_study(directory, plan):
    opened = open_storage(None, directory)
    sampler = instantiate(plan.config.sampler)
    return SharedStudy("s", opened, directory, plan.objectives, sampler, seed=0)


def propose(study, plan, total):
    trial = study.ask(total)
    if trial is None:
        return None
    limits = {item.key: item.distribution for item in plan.space}
    params = plan.composition.propose(lambda key: suggest(trial, key, limits[key]))
    study.tell(trial, [params.get("loss.temperature", 1.0), 1.0])
    study.refresh()
    return params


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "qmc", "random", "gp"])
def test_every_sampler_proposes_and_never_twice(sampler, tmp_path):
    plan = make_plan(f"sampler={sampler}", "loss=choice(kd,dkd,logit_mse)")
    found = []
    for _ in range(2):  # the second goes on with the seed of the first
        with open_study(tmp_path, plan) as study:
            study.refresh()
            found += [propose(study, plan, 12) for _ in range(6)]
    assert len({tuple(params.items()) for params in found}) == 12
    assert all(("loss.temperature" in p) == (p["loss"] != "logit_mse") for p in found)
    with open_study(tmp_path, plan) as study:
        study.refresh()
        assert propose(study, plan, 12) is None


@pytest.mark.parametrize(
    ("sampler", "space", "points"),
    [
        ("grid", SMALL, 4),
        ("brute_force", SMALL, 4),
        ("brute_force", ("loss=kd,logit_mse", "loss.temperature=1,2", *CONDITIONAL), 6),
    ],
)
def test_every_point_is_tried_once_and_then_it_ends(sampler, space, points, tmp_path):
    plan = make_plan(f"sampler={sampler}", *space)
    with open_study(tmp_path, plan) as study:
        study.refresh()
        found = [propose(study, plan, 9) for _ in range(points + 1)]
    assert found[points] is None
    assert len({tuple(params.items()) for params in found[:points]}) == points
    with open_study(tmp_path, plan) as study:
        study.refresh()
        assert propose(study, plan, 9) is None


def test_the_last_trial_goes_to_the_sweeper_that_asked_first(tmp_path):
    plan = make_plan()
    with open_study(tmp_path, plan) as one, open_study(tmp_path, plan) as other:
        for study in (one, other):
            study.refresh()
        first = one.ask(1)
        assert first is not None
        assert other.ask(1) is None  # it had read the study before
        one.tell(first, [1.0, 1.0])
        assert not other.tell(first, [0.5, 1.0])
        other.refresh()
        assert other.finished == 1
        assert one.study.trials[0].values == [1.0, 1.0]
        assert "discarded" in one.study.get_trials()[1].user_attrs


def test_trials_are_taken_from_the_dead_and_never_from_the_living(tmp_path):
    plan = make_plan()
    with open_study(tmp_path, plan) as one:
        dead = open_study(tmp_path, plan)
        with dead:
            dead.refresh()
            trial = dead.ask(9)
            one.refresh()
            assert one.left_over() == []
        assert [taken.number for taken in one.left_over()] == [trial.number]
        one.refresh()
        assert one.left_over() == []


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_no_point_is_proposed_twice_and_the_last_ends_the_sweep(sampler, tmp_path):
    """TPE gave four points fourteen times, bit for bit."""
    plan = make_plan(
        f"sampler={sampler}", "loss=kd,logit_mse", "loss.temperature=1,2", *CONDITIONAL
    )
    found = []
    for _ in range(2):  # the second goes on where the first was stopped
        with open_study(tmp_path, plan) as study:
            study.refresh()
            proposals = Proposals(study, plan.composition)
            assert len(proposals.points) == 6
            for _ in range(4):
                asked = proposals.ask(14)
                if asked is not None:
                    found.append(asked[1])
                    study.tell(asked[0], [0.5, 1.0])
                    study.refresh()
    assert len(found) == 6
    assert all(point in found for point in proposals.points)
    assert study.exhausted
    assert study.finished == 6


def test_a_repeat_takes_the_known_values(tmp_path):
    plan = make_plan("sampler=random", "sweep.constraints=['num_params <= 5']", *SMALL)
    with open_study(tmp_path, plan) as study:
        proposals = Proposals(study, plan.composition)
        first, params = proposals.ask(9)
        first.set_constraint("num_params", 3.0)
        study.tell(first, [0.75, 8.0])
        study.study.enqueue_trial(params)
        second, other = proposals.ask(9)
        study.refresh()
        assert other != params
        assert (first.number, second.number) == (0, 2)
        repeated = study.study.get_trials()[1]
        assert repeated.values == [0.75, 8.0]
        assert repeated.constraints == {"num_params": 3.0}
        assert (study.finished, len(study.completed())) == (1, 1)


def test_what_two_sweepers_were_both_given_is_tried_once(tmp_path):
    """Each enqueued it, as both do that start at once; one has taken it and not said its values."""
    plan = make_plan()
    first = plan.first()[0][0]
    with open_study(tmp_path, plan) as one, open_study(tmp_path, plan) as other:
        for study in (one, other):
            study.study.enqueue_trial(first)
            study.refresh()
        held = one.ask(9)
        trial, params = Proposals(other, plan.composition).ask(9)
        assert params != first
        assert Proposals(one, plan.composition).of(held) == first
        other.refresh()
        assert [each.number for each in other.counted()] == [held.number, trial.number]


def test_a_trial_that_its_sweeper_finished_meanwhile_is_not_taken_up(tmp_path, monkeypatch):
    """The other tells its last trial, and ends, between our reading and our look at its lock."""
    plan = make_plan()
    with open_study(tmp_path, plan) as late:
        with open_study(tmp_path, plan) as other:
            trial = other.ask(1)
            looked = SharedStudy._is_left

            def ends_first(self, *given):
                assert other.tell(trial, [0.5, 100.0])
                other.__exit__()
                return looked(self, *given)

            with monkeypatch.context() as patch:
                patch.setattr(SharedStudy, "_is_left", ends_first)
                late.refresh()
                assert late.left_over() == []
        late.refresh()
        assert late.finished == len(late.completed()) == 1
        late.release([trial])  # nor does putting it back fail
        assert late.ask(1) is None


def test_an_endless_space_has_no_points():
    assert points(make_plan().composition) is None
    assert len(points(make_plan(*SMALL).composition)) == 4


def told_by(study):
    return [
        (trial.number, trial.state, trial.values, trial.params, trial.user_attrs)
        for trial in study.get_trials(deepcopy=False)
    ]


def test_what_a_sweeper_knows_is_what_the_study_holds(tmp_path, monkeypatch):
    """Alone it reads no trial of its own twice, be there many in flight; beside others it does."""
    plan = make_plan()
    with open_study(tmp_path, plan) as one:
        backend, read = one._storage.storage, []
        get_all, get_one = backend.get_all_trials, backend.get_trial
        monkeypatch.setattr(
            backend, "get_all_trials", lambda *a, **k: read.append("all") or get_all(*a, **k)
        )
        monkeypatch.setattr(
            backend, "get_trial", lambda number: read.append(number) or get_one(number)
        )
        monkeypatch.setattr(storage, "READ_SECONDS", math.inf)
        flying, most = [], 0
        for step in range(30):
            before = len(read)
            flying.append(one.ask(99))
            suggest(flying[-1], plan.space[0].key, plan.space[0].distribution)
            one.refresh()
            elsewhere = optuna.load_study(study_name="s", storage=fresh(tmp_path))
            assert told_by(one.study) == told_by(elsewhere)
            if step % 3 == 2:
                one.tell(flying.pop(0), [step % 7, 1.0])
                one.refresh()
                assert one.best() == max(trial.values[0] for trial in one.completed())
            most = max(most, len(read) - before)
        assert len(one.running) == 20
        assert read.count("all") == 1
        assert most <= 2

        with open_study(tmp_path, plan) as other:
            other.refresh()
            asked = other.ask(99)
            one.refresh()
            assert asked.number in [trial.number for trial in one.running]
            other.tell(asked, [0.5, 1.0])
            one.refresh()
            assert one.study.get_trials()[asked.number].values == [0.5, 1.0]
            late = other.ask(99)
        one.refresh()  # the other has gone since it was seen to live
        assert late.number in [trial.number for trial in one.running]
        seen = read.count("all")
        with open_study(tmp_path, plan) as other:  # comes and goes between two looks
            other.refresh()
            other.tell(late, [0.25, 1.0])
        one.refresh()
        assert read.count("all") == seen + 1
        known = one._storage._known
        one._storage._know(known.pop(min(known)))  # as one that is read after its successors
        numbers = [trial.number for trial in one.study.get_trials(deepcopy=False)]
        assert numbers == list(range(len(numbers)))
        assert one.study.get_trials()[late.number].values == [0.25, 1.0]


def fresh(directory):
    return open_storage(None, directory).storage
