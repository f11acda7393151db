"""What makes the tests' compositions quick changes nothing of them."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from quick_configs import left_out

from kd_research.configuration.config import ROOT

ASKED = (
    (),
    ("loss=minillm", "dataset=instructions", "model@student.model=gpt", "seed=3"),
    ("+sweep.methods.a.overrides={loss:[kd,ce],x:${seed}}", "~sweep.space"),
)


def composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def said(node: Any) -> dict[str, Any]:
    """What OmegaConf says of a node; of what was resolved only for what: the time goes on."""
    found = copy.deepcopy(node._metadata.__dict__)
    found["resolver_cache"] = {name: list(asked) for name, asked in found["resolver_cache"].items()}
    return found


def nodes(config: Any, parent: Any = None) -> list[Any]:
    """Of every node: its kind, what it holds, what is said of it, whether its parent is its."""
    content = config.__dict__["_content"]
    found = [(type(config), said(config), config._get_parent() is parent)]
    if isinstance(content, dict | list):
        for node in content.values() if isinstance(content, dict) else content:
            if isinstance(node, DictConfig | ListConfig):
                found += nodes(node, config)
            else:
                held = node._get_parent() is config
                found.append((type(node), said(node), node._val, held))
                assert held
    else:
        found.append(content)
    return found


@pytest.mark.parametrize("overrides", ASKED)
def test_a_composition_and_its_copy_are_what_they_are_without(overrides: tuple[str, ...]) -> None:
    composed((*overrides, "trainer.max_epochs=7"))  # the same choices are looked up once
    quick = composed(overrides)
    quick_copy = quick.copy()
    quick_copy.seed = 77
    with left_out():
        plain = composed(overrides)
        plain_copy = plain.copy()
        plain_copy.seed = 77
        assert nodes(plain) == nodes(quick)
        assert nodes(plain_copy) == nodes(quick_copy)
        assert plain.seed != 77
        plain_texts = [OmegaConf.to_yaml(each) for each in (plain, plain_copy)]
        with open_dict(plain):
            del plain["hydra"]
        resolved = OmegaConf.to_container(plain, resolve=True)
        stated = OmegaConf.to_container(plain)
    assert [OmegaConf.to_yaml(each) for each in (quick, quick_copy)] == plain_texts
    with open_dict(quick):
        del quick["hydra"]
    assert OmegaConf.to_container(quick, resolve=True) == resolved
    assert OmegaConf.to_container(quick) == stated


def test_plain_values_and_what_has_none_are_what_they_are_without() -> None:
    text = (
        "a: {b: [1, '${c.d}', null, '???'], e: '${c}'}\nc: {d: 2.5, f: '???', g: '\\${c}'}\nh: null"
    )
    config = OmegaConf.create(text)
    unknown = OmegaConf.create("a: [1, {b: '${no.such}'}]")
    asked = [{}, {"resolve": True}]
    found = [OmegaConf.to_container(config, **how) for how in asked]
    errors = []
    for quick in (True, False):
        with nullcontext() if quick else left_out():
            assert [OmegaConf.to_container(config, **how) for how in asked] == found
            for wrong, how in ((config, {"throw_on_missing": True}), (unknown, {"resolve": True})):
                with pytest.raises(OmegaConfBaseException) as caught:
                    OmegaConf.to_container(wrong, **how)
                errors.append((type(caught.value), str(caught.value)))
    assert errors[:2] == errors[2:]


def test_a_file_that_was_changed_is_read_anew_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1")
    first = OmegaConf.load(path)
    first.a = 5
    assert OmegaConf.load(path) == {"a": 1}
    path.write_text("a: 2")
    assert OmegaConf.load(path) == {"a": 2}
    path.write_text("a: [")
    with pytest.raises(Exception, match="a.yaml") as quick:
        OmegaConf.load(path)
    with left_out(), pytest.raises(type(quick.value)) as plain:
        OmegaConf.load(path)
    assert str(quick.value) == str(plain.value)


def test_a_default_that_hangs_on_another_choice_is_found(tmp_path: Path) -> None:
    for name, text in (
        ("config", "defaults: [a: one, b: '${a}', _self_]\nc: 1"),
        ("a/one", "x: 1"),
        ("a/two", "x: 2"),
        ("b/one", "y: 1"),
        ("b/two", "y: 2"),
    ):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("config", ["a=two"]) == {"a": {"x": 2}, "b": {"y": 2}, "c": 1}
