"""What is printed and written, whatever terminal, pipe or locale there is."""

from __future__ import annotations

import ast
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kd_research.records.record import RunRecord, read_record, write_json, write_record, write_text

PACKAGE = Path(__file__).resolve().parents[2] / "kd_research"
LOUD = """
import sys
from kd_research.records.printing import print_safely
print_safely()
for number in range(20000):
    print("line", number, "\\u2013 \\udce9")
    print("line", number, file=sys.stderr, flush=True)
open("done", "w", encoding="utf-8").close()
"""
METHODS = (".open", ".read_text", ".write_text")
NOT_TEXT = ("os.open", "Image.open")


def start(at: Path, **how: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.Popen([sys.executable, "-c", LOUD], cwd=at, env=environment, **how)  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_leaves_ends_nothing(tmp_path: Path) -> None:
    with start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"line 0")
        process.stdout.close()
        assert process.wait(600) == 0
    assert (tmp_path / "done").exists()


def test_a_terminal_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    process = start(tmp_path, stdout=inside, stderr=inside, stdin=subprocess.DEVNULL)
    os.close(inside)
    assert os.read(terminal, 6) == b"line 0"
    os.close(terminal)
    assert process.wait(600) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_output_ends_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        assert start(tmp_path, stdout=full, stderr=full).wait(600) == 0
    assert (tmp_path / "done").exists()


def test_what_no_encoding_has_is_written_and_read_as_an_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "caf\udce9.png – é")
    assert (tmp_path / "text").read_bytes() == "caf\\udce9.png – é".encode()
    write_record(RunRecord("failed", {"a": ["\udce9"]}, 0, error="caf\udce9.png"), tmp_path)
    found = read_record(tmp_path)
    assert found.error == "caf\\udce9.png"
    assert found.config == {"a": ["\\udce9"]}
    write_json(tmp_path / "text", {"pair": "\U0001f600"})
    assert json.loads((tmp_path / "text").read_bytes()) == {"pair": "\U0001f600"}


def test_every_text_file_is_opened_with_its_encoding() -> None:
    """The locale decides nothing: a report made under another one reads the same."""
    bare = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            line = ast.unparse(node.func)
            if line not in ("open", "os.fdopen") and not line.endswith(METHODS):
                continue
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            words = [each.value for each in given if isinstance(each, ast.Constant)]
            binary = any("b" in word for word in words if isinstance(word, str))
            if not binary and "utf-8" not in words and line not in NOT_TEXT:
                bare.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}")
    assert not bare, "\n".join(bare)
