"""Every loss says where it is worth searching, and the documentation says the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import warm

from kd_research.configuration.resolvers import ROOT
from kd_research.configuration.search_ranges import LOSSES, MOST, read, table

PATHS = sorted(LOSSES.glob("*.yaml"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_loss_states_where_it_is_worth_searching(path: Path) -> None:
    found = read(path)
    assert found is not None, f"{path.name}: add search: {{KEY: RANGE}}, or search: {{}}"
    assert len(found) <= MOST
    text = path.read_text()
    keys = {item.key for item in found}
    for key in ("lambda", "temperature"):  # both wherever the method has them
        if f"\n{key}:" in text:
            assert key in keys, f"{path.name}: search lacks {key}"
    for item in found:
        assert item.source, f"{path.name}: search.{item.key} needs a comment that names its source"
        if item.key == "lambda" and item.expression == "interval(0, 1)":
            assert "one_minus" in text or path.stem == "kd_at", "lambda is no share here"
        elif item.key == "lambda":
            assert item.expression.startswith("tag(log, interval("), path.name


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "reference" / "search_ranges.md").read_text()
    assert page == table(), (
        "python -m kd_research.configuration.search_ranges > docs/reference/search_ranges.md"
    )


def test_the_command_prints_the_page() -> None:
    command = [sys.executable, "-m", "kd_research.configuration.search_ranges"]
    printed = warm.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed == table()
