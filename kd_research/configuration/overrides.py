"""Wrong overrides, explained all at once; Hydra itself stops at the first."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from kd_research.configuration.checks import RENAMED
from kd_research.configuration.config import ROOT
from kd_research.configuration.own_folders import split
from kd_research.configuration.parts_checks import TREE_LOSSES
from kd_research.configuration.paths import folder_problems
from kd_research.configuration.signatures import LENGTHS, length_of_the_fit
from kd_research.configuration.structure import what_adds

ADAPTER = re.compile(r"student\.adapter=\{.*\b_target_:")  # there is no key yet to be set
WHOLE = ("sweep.objectives", "sweep.space", "sweep.reference_point")  # mappings, as typed
MAPS = re.compile(r"student_layers: \[stages")  # in a loss's YAML: layers that an MLP has not
UNREADABLE = (HydraException, OmegaConfBaseException, YAMLError, UnicodeError, OSError)
# Whose keys are all known: another one is read by nothing but what refers to it.
CLOSED = ("", "student", "teacher", "soft_targets", "efficiency", "text_evaluation", "loss")
READ = ("lambda", "temperature", "stages", "text", "search")  # of a loss, by the harness
DEPTHS = ("", "*/", "*/*/")  # of files in a folder of settings
# With any other flag Hydra is left to speak for itself.
FLAGS = {
    *("-m", "--multirun", "--run", "-r", "--cfg", "-c", "--resolve", "--package", "-p"),
    *("--config-dir", "-cd"),
}


def explain(arguments: Sequence[str]) -> list[str]:
    """What is wrong with the overrides on a command line, a line each; empty where nothing is.

    Hydra's own composition judges first. Only what it refuses is looked into here, and the
    dimensions of a sweep, which it does not look at.

    Args:
        arguments: of the command line; with flags beyond `FLAGS`, Hydra speaks for itself.
    """
    flags, items = split(arguments)
    if any(flag[0] not in FLAGS for flag in flags):
        return []
    problems, overrides = [], []
    parser = OverridesParser.create()
    for item in items:
        try:
            overrides.append(parser.parse_override(item))
        except HydraException as error:
            problems.append(f"{item}: {str(error).splitlines()[0]}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain = [str(item.input_line) for item in overrides if not item.is_sweep_override()]
        try:
            config, refused = compose("config", overrides=plain), ""
            doubtful = [item for item in overrides if item.is_sweep_override()]
        except (*UNREADABLE, ValueError) as error:  # optimizer=3: Hydra wants a text
            refused = _chosen_twice(error, plain) or _told(error)
            doubtful = overrides
        wrong = {item.input_line: list(_group_problems(item)) for item in doubtful}
        problems += [problem for found in wrong.values() for problem in found]
        right = [item for item in doubtful if not wrong[item.input_line]]
        groups = [item for item in right if _options(item)]
        if refused:
            known = [one for one in right if one in groups or one.is_add() or one.is_force_add()]
            fixed = [str(item.input_line) for item in known if not item.is_sweep_override()]
            try:
                config = compose("config", overrides=fixed)
            except UNREADABLE:  # sweeps=NAME, without a +, or a file that is no YAML
                return problems or list(_file_problems()) or [refused]
        # What a swept group's choices hold is not known yet: the plan tries them.
        swept = tuple(f"{item.key_or_group}." for item in groups if item.is_sweep_override())
        for override in right:
            if not _options(override) and not override.key_or_group.startswith(swept):
                problems += _key(override, config)
        added = [] if refused else [item for item in overrides if not _options(item)]
        problems += [text for item in added for text in _slip(item, config)]
        if not refused and not any(item.startswith("teacher.") for item in swept):
            problems += _of_no_teacher(added, config)
    if refused:
        return problems or [refused]
    if not problems and not any(flag[0] in ("--cfg", "-c") for flag in flags):
        problems += folder_problems(config)
    return problems


def _told(error: Exception) -> str:
    """What Hydra says, in a line."""
    return " ".join(str(error).split("Set the environment")[0].split())


def _chosen_twice(error: Exception, lines: Sequence[str]) -> str | None:
    """Said where a choice is added by + that the configuration has already; None elsewhere."""
    match = re.search(r"use 'override ([^\s:]+): ", str(error))
    if not match:
        return None
    typed = [text for text in map(str, lines) if text.lstrip("+").startswith(f"{match[1]}=")]
    if len(typed) != 1 or not typed[0].startswith("+"):
        return None
    return f"{typed[0]}: the configuration has one already; type {typed[0].lstrip('+')}"


def _file_problems() -> Iterator[str]:
    """The files of a person's own folders that cannot be settings."""
    for item in GlobalHydra.instance().config_loader().get_search_path().get_path():
        folder = Path(item.path.removeprefix("file://"))
        if not item.path.startswith("file://") or folder == ROOT / "conf":
            continue
        for path in sorted(found for depth in DEPTHS for found in folder.glob(f"{depth}*.yaml")):
            try:
                node = OmegaConf.load(path)
            except (YAMLError, UnicodeError, OSError) as error:
                yield f"{path} cannot be read as YAML: {_told(error)}"
            else:
                if not isinstance(node, DictConfig):
                    yield f"{path} holds a list; type KEY: VALUE lines, as in conf/model/mlp.yaml"


def as_whole(arguments: Sequence[str]) -> list[str]:
    """The arguments, where a mapping of the sweep may have keys that the default's has not.

    `sweep.space={optimizer.lr: ...}` is taken whole, as it was typed; Hydra would only merge it.
    So is an adapter with its class, `student.adapter={_target_: peft.LoHaConfig}`.
    """
    whole = tuple(f"{key}={{" for key in WHOLE)
    return [
        f"++{text}" if text.startswith(whole) or ADAPTER.match(text) else text for text in arguments
    ]


def student_for(arguments: Sequence[str]) -> str | None:
    """The student of the loss that is typed, where the default, an MLP, lacks what it reads.

    That is `student=cnn` for feature maps, `student=soft_tree` for a tree's leaves. None where a
    student is typed, the loss's layers are, or a sweep that may choose them.
    """
    typed = {text.lstrip("+~").partition("=")[0]: text.partition("=")[2] for text in arguments}
    chosen = ("student", "loss.student_layers", "sweeps", "sweep")
    file = ROOT / "conf" / "loss" / f"{typed.get('loss')}.yaml"
    if any(key in typed for key in chosen) or not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    if TREE_LOSSES in text:
        return "student=soft_tree"
    return "student=cnn" if MAPS.search(text) else None


def _options(override: Override) -> list[str]:
    """The choices of the group that the override names; empty where it names a key."""
    loader = GlobalHydra.instance().config_loader()
    name = override.key_or_group.split("@")[0]
    found = list(loader.get_group_options(name))
    for folder in loader.get_group_options(name, ObjectType.GROUP):  # as sweeps/papers
        found += [f"{folder}/{item}" for item in loader.get_group_options(f"{name}/{folder}")]
    return found


def _group_problems(override: Override) -> Iterator[str]:
    options = _options(override)
    if not options or override.is_delete():
        return
    value, group = override.value(), override.key_or_group
    if isinstance(value, Glob | dict):
        return
    for name in map(str, value.list if isinstance(value, ChoiceSweep) else [value]):
        if name not in options and (name != "None" or not override.is_sweep_override()):
            close = difflib.get_close_matches(name, options, n=1)
            added = "+" if override.is_add() else ""
            hint = f"did you mean {added}{group}={close[0]}? " if close else ""
            shown = "null" if value is None else repr(name)
            yield f"there is no {group} {shown}; {hint}choices: {', '.join(options)}"


def _key(override: Override, config: DictConfig) -> Iterator[str]:
    key = override.key_or_group
    *parents, _ = key.split(".")
    if override.is_add() or override.is_force_add() or parents[:1] == ["hydra"]:
        return
    if _exists(config, key):
        node = _at(config, key)
        value = None if override.is_sweep_override() else override.value()
        if isinstance(value, list) and isinstance(node, DictConfig):
            yield f"{key} is a mapping of settings, got {value}; type {key}.SETTING=VALUE"
        if isinstance(value, dict) and isinstance(node, ListConfig):
            yield f"{key} must be a list, got {value}; try {key}=[{','.join(map(str, node))}]"
        for name in value if isinstance(value, dict) and isinstance(node, DictConfig) else ():
            if not node:
                yield f"{key} is empty, and has no {name}; +{key}.{name}=... adds it"
            elif str(name) not in node:
                yield (
                    f"{key} has no {name}; +{key}.{name}=... adds it, and ~{key}.NAME takes one "
                    f"out: there are {', '.join(map(str, node))}"
                )
        return
    if key in RENAMED:
        yield f"{key} is called {RENAMED[key]} today; type {RENAMED[key]}={override.value()}"
        return
    searched = key.removeprefix("sweep.space.")
    if searched in (OmegaConf.select(config, "sweep.space") or ()):
        yield (
            f"~{key} is none for Hydra, whose dots are levels; {searched}=VALUE takes it out"
            if override.is_delete()
            else f"{key} is none for Hydra, whose dots are levels; type {searched}="
            f"{override.get_value_string()}"
        )
        return
    if key.rpartition(".")[0].endswith("scheduler") and key.rpartition(".")[2] in LENGTHS:
        yield length_of_the_fit(key, override.get_value_string())
        return
    known = [f"{at}" for at in _keys(config)]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    hint = f"did you mean {close[0]}? " if close else ""
    while parents and not _exists(config, ".".join(parents)):
        parents.pop()
    node = _at(config, ".".join(parents))
    if isinstance(node, DictConfig) and not node:
        yield f"{'.'.join(parents)} is empty, and has no such key; {what_adds(key)} adds it"
        return
    where = f"under {'.'.join(parents)}" if parents else "at the top"
    names = ", ".join(map(str, node)) if isinstance(node, DictConfig) else "no keys"
    yield f"unknown key {key}; {hint}{where} there are: {names} (a new key is added by +{key}=...)"


def _slip(override: Override, config: DictConfig) -> Iterator[str]:
    """Of a key that + adds beside one that is called nearly so: nothing would read it."""
    key = override.key_or_group
    above, _, last = key.rpartition(".")
    if not override.is_add() or above not in CLOSED or (above == "loss" and last in READ):
        return
    node = _at(config, above)
    beside = [str(name) for name in node if name != last] if isinstance(node, DictConfig) else []
    if close := difflib.get_close_matches(last, beside, n=1, cutoff=0.75):
        meant = f"{above}.{close[0]}".lstrip(".")
        yield (
            f"+{key} adds a key that nothing reads; did you mean {meant}? "
            f"type {meant}={override.get_value_string()}, or ++{key} where it is meant"
        )
    elif above == "loss" and f".{last}}}" not in str(OmegaConf.to_container(config)):
        terms = ", ".join(map(str, _at(config, "loss.terms") or ())) or "NAME"
        yield (
            f"+{key} adds a key that nothing reads; one of a term (here {terms}) is set by "
            f"+loss.terms.NAME.loss.{last}=..."
        )


def _of_no_teacher(overrides: Sequence[Override], config: DictConfig) -> Iterator[str]:
    """Settings of a teacher, where neither the configuration nor a run of its sweep has one."""
    typed = [item.key_or_group for item in overrides if item.key_or_group.startswith("teacher.")]
    stated: Any = OmegaConf.to_container(config.get("teacher") or OmegaConf.create())
    if typed and stated.get("model") is None and "teacher" not in str(config.get("sweep")):
        yield (
            f"{', '.join(typed)}: not read, as there is no teacher (teacher=none); type "
            "teacher=NAME, or leave it out"
        )


def _exists(config: DictConfig, key: str) -> bool:
    *parents, last = key.split(".")
    node = _at(config, ".".join(parents))
    return isinstance(node, DictConfig) and last in node.keys()  # noqa: SIM118  (`in` leaves ??? out)


def _at(config: DictConfig, key: str) -> Any:
    """What stands there; None where it refers to what has no value yet, as with teacher=run."""
    try:
        return OmegaConf.select(config, key) if key else config
    except OmegaConfBaseException:
        return None


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        yield f"{prefix}{key}"
        child = None if OmegaConf.is_missing(config, key) else config._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from _keys(child, f"{prefix}{key}.")
