"""The ledger, the comparison of methods and the answers, as parts of the page.

They are written as Markdown; the page shows the same words: headings, paragraphs and tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kd_research.records.record import read_text


def blocks(pages: Iterable[Path]) -> list[list[dict[str, Any]]]:
    """Of each page its parts, in order: {"head"}, {"table": rows}, {"code"} or {"text"}."""
    return [parsed(read_text(path)) for path in pages]


def parsed(text: str) -> list[dict[str, Any]]:
    """The parts of a page; a table's first row is its header, figures are left out."""
    found: list[dict[str, Any]] = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        for kind, lines in _runs(paragraph.splitlines()):
            if kind == "table":
                rows = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines]
                cells = [[_plain(cell.strip()) for cell in row] for row in rows]
                found.append({"table": [cells[0], *cells[2:]]})  # the second line is of dashes
            elif kind == "head":
                found += [{"head": _plain(line.lstrip("# "))} for line in lines]
            elif kind == "item":
                found += [{"text": _plain(line.removeprefix("- "))} for line in lines]
            elif kind == "code":
                found.append({"code": "\n".join(line[4:] for line in lines)})
            elif kind == "text":
                found.append({"text": _plain(" ".join(lines))})
    return found


def _runs(lines: list[str]) -> Iterable[tuple[str, list[str]]]:
    """Neighbouring lines of one kind."""
    marks = {"|": "table", "#": "head", "- ": "item", "    ": "code", "![": "figure"}
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        kind = next((kind for mark, kind in marks.items() if line.startswith(mark)), "text")
        if not found or found[-1][0] != kind:
            found.append((kind, []))
        found[-1][1].append(line)
    return found


def _plain(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"\1", text).replace("\\|", "|")
