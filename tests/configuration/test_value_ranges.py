"""Ranges that our classes state for their numbers, read from their sources."""

import inspect
import math
import re
from importlib import import_module
from typing import get_type_hints

import pytest
import torch

from kd_research import interfaces
from kd_research.configuration.config import ROOT
from kd_research.configuration.value_ranges import Kind, Numbers, Range, range_problems, ranges
from kd_research.models.lenet import LeNet

PACKAGE = ROOT / "kd_research"


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("> 0", [1e-9, 3], [0, -1, math.inf, math.nan, True, "1", None]),
        (">= 0", [0, 0.5], [-1e-9]),
        ("in [0, 1]", [0, 1, 0.5], [-0.1, 1.1]),
        ("in [0, 1)", [0, 0.9], [1]),
        ("in (0, 1]", [1], [0]),
    ],
)
def test_a_range_holds_what_it_says(text, inside, outside):
    allowed = Range(text)
    assert all(map(allowed.holds, inside))
    assert not any(map(allowed.holds, outside))
    assert allowed.holds(allowed.example())


def test_a_count_is_whole_and_null_is_said():
    assert not Range(">= 1", whole=True).holds(1.5)
    assert Range(">= 1", whole=True, or_null=True).holds(None)
    assert str(Range(">= 1", whole=True, or_null=True)) == "a whole number >= 1, or null"


def stated_in(path):
    """The classes of a file that state a range, and whether Python says the same of them."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    text = path.read_text(encoding="utf-8")
    for name in {
        line.split()[1].split("(")[0].rstrip(":")
        for line in text.splitlines()
        if line.startswith("class ")
    }:
        if found := ranges(f"{module}.{name}"):
            yield module, name, found


def said_in(hint):
    """The ranges that a type states, in whatever it is made of."""
    yield getattr(hint, "__metadata__", None)
    for part in getattr(hint, "__args__", ()):
        yield from said_in(part)


def test_what_the_source_says_is_what_python_says():
    seen = 0
    for path in sorted(PACKAGE.glob("*/*.py")):
        if not re.search(r"Annotated|Share|Sequence\[(Count|Positive)", path.read_text("utf-8")):
            continue
        for module, name, found in stated_in(path):
            kind = getattr(import_module(module), name)
            owner = kind if hasattr(kind, "__dataclass_fields__") else kind.__init__
            hints = get_type_hints(
                owner, {**vars(interfaces), **vars(import_module(module))}, include_extras=True
            )
            for parameter, allowed in found.items():
                if isinstance(allowed, Kind):
                    continue
                told = set(said_in(hints[parameter]))
                one = allowed.each if isinstance(allowed, Numbers) else allowed
                assert (one.text,) in told, f"{module}.{name}({parameter})"
                seen += 1
            assert set(found) <= set(inspect.signature(kind).parameters)
    assert seen > 30


def test_the_key_that_was_typed_is_told_once():
    stated = {
        "t": "${u}",
        "u": 2,
        "terms": {
            "a": {"_target_": "kd_research.losses.divergences.JensenShannon", "beta": "${t}"},
            "b": {"_target_": "kd_research.losses.divergences.JensenShannon", "beta": "${u}"},
        },
    }
    resolved = {
        **stated,
        "t": 2,
        "terms": {k: {**v, "beta": 2} for k, v in stated["terms"].items()},
    }
    assert list(range_problems(stated, resolved)) == ["u must be in [0, 1], got 2; try u=1"]


@pytest.mark.parametrize(
    ("types", "inside", "outside", "given", "example"),
    [
        (("float",), [0, -0.5], ["1", None, True, math.nan, [1]], "x", "1"),
        (("bool",), [True, False], [0, 1, "true", None], 1, "true"),
        (("int", "None"), [3, None], [0.5, "3", True], "x", "1"),
        (("Sequence[str]",), [["a"], []], ["a", [1], None, {"a": 1}], "a", "[a]"),
        (("Sequence[float]", "float"), [[1, 0.5], 2], [None, ["x"], "x"], "x", "[1]"),
        (("Sequence[float]",), [[1.0]], [4], 4, "[4]"),
    ],
)
def test_a_kind_holds_what_it_says(types, inside, outside, given, example):
    allowed = Kind(types)
    assert all(map(allowed.holds, inside))
    assert not any(map(allowed.holds, outside))
    assert allowed.example(given) == example


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "example", "text"),
    [
        (
            Numbers(Range("> 0")),
            [[1, 0.5]],
            [[], 4, None, [0.1, "x", 2]],
            "[0.1,2]",
            "a list of numbers > 0",
        ),
        (
            Numbers(Range(">= 1", whole=True), or_empty=True),
            [[6, 16], (1,), []],
            [{"a": 1}, [0.5, -1]],
            "[1]",
            "a list of whole numbers >= 1, or []",
        ),
    ],
)
def test_numbers_are_of_a_range_each(allowed, inside, outside, example, text):
    assert all(map(allowed.holds, inside))
    assert not any(map(allowed.holds, outside))
    assert allowed.example(outside[-1]) == example
    assert str(allowed) == text


def test_a_net_without_hidden_layers_may_be_asked_for():
    found = ranges("kd_research.models.lenet.LeNet")
    assert found["units"] == Numbers(Range(">= 1", whole=True), or_empty=True)
    assert found["channels"] == Numbers(Range(">= 1", whole=True))
    assert LeNet((1, 28, 28), 10, units=[])(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_what_a_key_above_refers_to_is_told_by_its_name():
    term = {"_target_": "kd_research.losses.labels.LabelSmoothing", "smoothing": "${....smoothing}"}
    stated = {"teacher": {"loss": {"smoothing": 2, "terms": {"s": {"loss": term}}}}}
    resolved = {"teacher": {"loss": {"terms": {"s": {"loss": {**term, "smoothing": 2}}}}}}
    (told,) = range_problems(stated, resolved)
    assert told.startswith("teacher.loss.smoothing must be in [0, 1), got 2; try teacher.loss.smoo")
