"""What the pages show: fenced blocks, the commands in them, and how a command is tried cheaply."""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from tiny import composed

from kd_research import run
from kd_research.configuration.config import ConfigError, check, settle
from kd_research.configuration.own_folders import split
from kd_research.configuration.syntax import syntax_problems
from kd_research.trial import run as trial

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = "python -m kd_research.run "


class Block(NamedTuple):
    """A fenced block of a page: its language ("" is a shell's), its text."""

    language: str
    text: str


class Accepted(BaseException):
    """A command came to where it would start to work."""


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(text)]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of a page's shell blocks; no comments, no `$ ` with its answer."""
    for block in blocks(text):
        if block.language in ("", "bash", "sh"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] != "$":
                    yield words


def write_files(text: str, folder: Path) -> None:
    """Write every block that starts with its file's name, as `# my/mine.py`, below the folder."""
    for block in blocks(text):
        first, _, rest = block.text.partition("\n")
        if re.fullmatch(r"# my/[\w/.]+", first):
            path = folder / first.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rest, encoding="utf-8")


def refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run `python -m kd_research.run ARGUMENTS` in this process, up to where it would work.

    Args:
        arguments: of the command line.
        monkeypatch: undoes what is put in the way of the work.

    Returns:
        What it says against the command; "" where it would start to work, but for extras that are
        not installed here, and servers that are not.
    """

    def works(*_: object) -> None:
        raise Accepted

    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine", None)  # another folder's
    monkeypatch.setattr(os, "execv", works)
    monkeypatch.setattr("kd_research.sweep.run.run_sweep", works)
    monkeypatch.setattr("kd_research.sweep.methods.Comparison.run", works)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: socket.socket())
    monkeypatch.setattr(run, "explain", lambda _: [])  # composes three times for its hints
    try:
        run.main()
    except Accepted:
        return ""
    except SystemExit as ended:
        lines = str(ended.code or "").splitlines()  # 0 and None: --help, --cfg job
        return "\n".join(line for line in lines if "install" not in line)
    return ""  # as above, in Hydra's way


def composed_problems(arguments: list[str]) -> list[str]:
    """What is wrong with `python -m kd_research.run ARGUMENTS`, at the price of one composition.

    Of a sweep, the settings that are not searched are composed, and the keys that are must exist.
    """
    _, overrides = split(arguments)
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = [item for item in parsed if item.is_sweep_override()]
    groups = [item for item in swept if (ROOT / "conf" / item.key_or_group).is_dir()]
    fixed = [item.input_line for item in parsed if not item.is_sweep_override()]
    fixed += [f"{item.key_or_group}={[*item.sweep_string_iterator()][-1]}" for item in groups]
    problems = syntax_problems(arguments)
    config = composed(*fixed)
    problems += [
        f"unknown key {item.key_or_group}"
        for item in swept
        if item not in groups and OmegaConf.select(config, item.key_or_group) is None
    ]
    if arguments[:1] != ["-m"]:
        try:
            settle(config)
            check(config)
        except ConfigError as error:
            problems += [each for each in error.problems if "install" not in each]
    return problems


def distil(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `python -m kd_research.run ARGUMENTS` to its end, in this process."""

    def here(_: str, words: list[str]) -> None:
        directory = words[words.index("kd_research.trial") + 1]
        assert trial.main([directory]) == 0, directory

    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("mine", None)  # another folder's
    monkeypatch.setattr(os, "execv", here)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run.main()
