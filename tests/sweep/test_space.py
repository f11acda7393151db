"""Hydra's sweep syntax becomes Optuna's distributions, and back."""

import pytest
from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from kd_research.sweep.space import parse


@pytest.mark.parametrize(
    ("expression", "distribution"),
    [
        ("1,2,4", Choice([1, 2, 4])),
        ("choice(1,2,4)", Choice([1, 2, 4])),
        ("choice(a,b)", Choice(["a", "b"])),
        ("choice(true,null,1.5)", Choice([True, None, 1.5])),
        ("choice('1','two words')", Choice(["1", "two words"])),
        ("choice(a,b,a)", Choice(["a", "b"])),
        ("choice([8,16],[32])", Choice(["[8,16]", "[32]"])),
        (["a", 1, None], Choice(["a", 1, None])),
        ([[8, 16], [32]], Choice(["[8,16]", "[32]"])),
        ("shuffle(1,2)", Choice([1, 2])),
        ("sort(2,1)", Choice([1, 2])),
        ("interval(0,1)", Float(0.0, 1.0)),
        ("interval(1,20)", Float(1.0, 20.0)),
        ("interval(1.,20)", Float(1.0, 20.0)),
        ("int(interval(1,20))", Int(1, 20)),
        ("tag(log, interval(1e-4,1e-1))", Float(1e-4, 1e-1, log=True)),
        ("tag(log, int(interval(4,64)))", Int(4, 64, log=True)),
        ("int(tag(log, interval(4,64)))", Int(4, 64, log=True)),
        ("range(1,4)", Int(1, 3)),
        ("range(4)", Int(0, 3)),
        ("range(0,10,3)", Int(0, 9, step=3)),
        ("range(0,0.5,0.1)", Float(0.0, 0.4, step=0.1)),
        ("float(range(1,4))", Float(1.0, 3.0, step=1.0)),
        ("tag(log, range(1,9))", Int(1, 8, log=True)),
    ],
)
def test_every_form_of_hydras_sweep_syntax(expression, distribution):
    dimensions, problems = parse({"a.b": expression}, {})
    assert problems == []
    assert dimensions[0].distribution == distribution


def test_glob_picks_among_the_choices_of_a_group():
    dimensions, problems = parse({"loss": "glob(*mse)"}, {"loss": ["kd", "logit_mse", "prob_mse"]})
    assert problems == []
    assert dimensions[0].is_group
    assert dimensions[0].distribution == Choice(["logit_mse", "prob_mse"])


def test_wrong_bounds_are_told_all_at_once():
    wrong = {
        "a": "interval(2,1)",
        "b": "tag(log, interval(0,1))",
        "c": "range(4,4)",
        "d": "interval(1",
        "e": "7",
        "f": "glob(x*)",
    }
    dimensions, problems = parse(wrong, {"f": ["kd"]})
    assert dimensions == []
    assert [line.split(":")[1].split("=")[0].strip() for line in problems] == list("abcdef")
    assert all("; try choice(a,b)" in line for line in problems)


@pytest.mark.parametrize(
    ("expression", "meant"),
    [("1,1.0", [1, 1.0]), ("true,1", [True, 1]), ("0,false,0.0,0", [0, False, 0.0])],
)
def test_choices_that_python_takes_for_equal_stay_apart(expression, meant):
    """One batch, or all of them: limit_train_batches=1,1.0 lost one of its two."""
    ((dimension,), problems) = parse({"+a.b": expression}, {})
    assert problems == []
    choices = dimension.distribution.choices
    assert len(set(map(dimension.distribution.to_internal_repr, choices))) == len(meant)
    found = [dimension.content(choice) for choice in choices]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in meant]


def test_a_group_keeps_its_package():
    groups = {"augment@dataset.augment": ["none", "crop_flip"]}
    ((dimension,), problems) = parse({"augment@dataset.augment": "none,crop_flip"}, groups)
    assert problems == []
    assert dimension.is_group
    assert dimension.assignment("crop_flip") == "augment@dataset.augment=crop_flip"
