"""Slips in how a command is typed, each with what to type, before Hydra reads it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from kd_research.configuration.own_folders import split
from kd_research.configuration.paths import is_empty
from kd_research.configuration.resolvers import ROOT
from kd_research.records.measures import COSTS, METRICS

MULTIRUN = ("-m", "--multirun")
SHOW = ("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
ONLY_SHOWN = (*SHOW, "--help", "-h", "--hydra-help")  # nothing is run
DOES = (*MULTIRUN, "--run", "-r", *SHOW)  # Hydra does one of these
BRACKETS = "()[]{}"
HYDRAS = ("hydra.run.dir", "hydra.sweep.dir")  # the rest is told of what is composed


def syntax_problems(arguments: Sequence[str]) -> list[str]:
    """What is typed in a form that Hydra cannot read or would misread, a line each.

    Args:
        arguments: of the command line.
    """
    flags, words = split(arguments)
    runs = not any(flag[0] in (*MULTIRUN, *ONLY_SHOWN) for flag in flags)
    problems = list(_flag_problems(flags, words))
    while words:
        word = words.pop(0)
        following = words[0] if words else ""
        if "=" not in word and following.startswith("="):  # loss =kd, loss = kd
            value = words.pop(0)[1:] or (words.pop(0) if words else "VALUE")
            problems.append(f"{word} = {value}: no spaces stand around =; type {word}={value}")
        elif "=" not in word and not word.startswith("~"):
            problems.append(f"{word} is no override; type {word}=VALUE")
        else:
            problems += _problems(word, runs)
    return problems


def _flag_problems(flags: Sequence[Sequence[str]], words: Sequence[str]) -> Iterator[str]:
    """Flags that Hydra would answer with a traceback."""
    given = [flag for flag in flags if flag[0] in DOES]
    if len({flag[0] for flag in given}) > 1:
        shown = [" ".join(flag) for flag in given]
        wanted = next((" ".join(flag) for flag in given if flag[0] in SHOW), shown[0])
        yield f"{' and '.join(shown)} exclude each other; type {wanted} alone"
    for name, *values in flags:
        if name == "--experimental-rerun" and not (values and Path(values[0]).is_file()):
            yield f"there is no file {' '.join(values)}; type the config.pickle of a run of Hydra's"
    names = [flag[0] for flag in flags]
    verbs = ("install=", "uninstall=", "query=")
    if {"--shell-completion", "-sc"} & set(names) and not any(w.startswith(verbs) for w in words):
        yield "what of it? type --shell-completion install=bash (or uninstall, query)"
    if "--resolve" in names and not {"--cfg", "-c", "--help", "-h"} & set(names):
        yield "--resolve is of --cfg; type --cfg job --resolve"
    hydras = [flag for flag in flags if flag[0] in ("--cfg", "-c") and "hydra" in flag]
    if "--resolve" in names and hydras:
        yield "Hydra's part refers to the rest; type --cfg all --resolve"


def _problems(word: str, runs: bool) -> Iterator[str]:
    key, _, value = word.partition("=")
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:
        if not _has_structure(value) and "'" not in value:
            values = [value] if runs else value.split(",")
            quoted = ",".join(f"'{each}'" for each in values)
            yield (
                f'{word}: the value has signs that must be quoted; type "{key}={quoted}", all '
                "quotes included"
            )
        return
    if override.key_or_group == "model" and not override.is_add():
        yield f"there is no model at the top; type student={value} or teacher={value}"
    elif override.key_or_group == "sweeps" and runs:
        yield f"{word} is a sweep; type -m {word}"
    elif override.is_sweep_override():
        if runs:
            yield f"{word}: several values are a sweep; type -m {word}"
    else:
        yield from _value_problems(override)


def _has_structure(value: str) -> bool:
    """Whether brackets mean a list, a mapping or a function, not a part of it as train[:100]."""
    return value[:1] in tuple(BRACKETS) or any(bracket in value for bracket in "(){}")


def _value_problems(override: Override) -> Iterator[str]:
    """Of a single value that has the wrong form for its key."""
    key, value = override.key_or_group, override.value()
    if key in HYDRAS and (value is None or not str(value).strip()):
        yield is_empty(key)
    if isinstance(value, list) and _is_group(key):
        choices = ",".join(map(str, value))
        yield f"{key} takes one choice; in a sweep type -m {key}={choices}"
    if key == "sweep.objectives" and isinstance(value, dict):
        for name in sorted({str(name) for name in value} - {*METRICS, *COSTS}):
            if name.startswith("test_"):
                yield (
                    f"{key}: the test split never reaches the optimiser, so {name} is no "
                    f"objective; type '{key}={{val_accuracy: maximize}}'"
                )
            elif close := difflib.get_close_matches(name, METRICS + COSTS, n=1):
                yield f"unknown objective {name}; did you mean {close[0]}?"


def _is_group(key: str) -> bool:
    return key in ("teacher", "student") or (ROOT / "conf" / key.partition("@")[0]).is_dir()
