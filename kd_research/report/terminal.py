"""Tables for the terminal, in which no number is ever cut.

Where a table is too wide, its words are wrapped first; then columns are left out, and named below.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kd_research.records.printable import printable

LONGEST_WORD = 16  # a longer one is broken
# Where a text may be wrapped: val_|accuracy, model.|width, 2026-|11-|28/, BagOf|Embeddings.
BREAK = re.compile(
    r"(?<=\s)(?=\S)|(?<=[_/])(?=[^_/\s])|(?<=[A-Za-z]\.)(?=\S)"
    r"|(?<=[^\W_]-)(?<!\de-)(?=[^\s-])|(?<=[a-z])(?=[A-Z])"
)


def print_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    lines: Sequence[str] = (),
    console: Console | None = None,
    first_out: Sequence[str] | None = None,
    dim: Sequence[str] = (),
) -> None:
    """Print a table, and lines below it.

    Args:
        title: above it.
        header: names of the columns.
        rows: cells, as text.
        lines: printed as they are.
        console: where; None: the terminal.
        first_out: the columns that may be left out, in that order; None: from the last but one
            back to the second.
        dim: first cells of the rows that are no result of their own.
    """
    console = console or Console()
    header = [printable(name) for name in header]
    rows = [[printable(cell) for cell in row] for row in rows]
    out = [header.index(name) for name in first_out or () if name in header]
    if first_out is None:
        out = list(range(len(header) - 2, 0, -1))
    shown, widths = layout(header, rows, console.width, out)
    table = Table(title=escape(printable(title)), title_justify="left", header_style="bold")
    for place, width in zip(shown, widths, strict=True):
        words = place == 0 or not all(_is_number(row[place]) for row in rows)
        name = wrapped(header[place], width)
        table.add_column(escape(name), justify="left" if words else "right", no_wrap=True)
    for row in rows:
        cells = [wrapped(row[place], width) for place, width in zip(shown, widths, strict=True)]
        table.add_row(*map(escape, cells), style="dim" if row[0] in dim else None)
    asked = console.width
    console.width = max(asked, _total(widths))  # where no more can be left out, nothing is cut
    console.print(table, crop=False)
    console.width = asked
    left_out = [header[place] for place in range(len(header)) if place not in shown]
    if left_out:
        lines = [f"left out at {console.width} characters: {', '.join(left_out)}", *lines]
    for line in lines:
        console.print(escape(printable(line)), soft_wrap=True, highlight=False)


def layout(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, out: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The columns that are shown, and the characters of each.

    Args:
        header: names.
        rows: cells.
        width: of the terminal.
        out: the columns that may be left out, in that order.
    """
    shown = list(range(len(header)))
    least = [max(_least(line[k], k == 0) for line in (header, *rows)) for k in shown]
    for place in out:
        if _total([least[k] for k in shown]) <= width:
            break
        shown.remove(place)
    widths = {k: max(cell_len(line[k]) for line in (header, *rows)) for k in shown}
    while _total(list(widths.values())) > width:
        wrapping = [place for place in shown if widths[place] > least[place]]
        if not wrapping:
            break
        widths[max(wrapping, key=lambda place: widths[place])] -= 1
    return shown, [widths[place] for place in shown]


def _total(widths: Sequence[int]) -> int:
    """With the lines and the blanks between them."""
    return sum(widths) + 3 * len(widths) + 1


def _is_number(text: str) -> bool:
    return not re.search(r"[^\W\d_]{2}", text)


def _least(text: str, is_name: bool) -> int:
    """The characters that a text needs: a number all of them, words the longest of them."""
    if _is_number(text) and not is_name:
        return cell_len(text)
    return min(LONGEST_WORD, max(cell_len(word.rstrip()) for word in BREAK.split(text)))


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most so many characters, none of it lost."""
    if cell_len(text) <= width:
        return text
    lines = [""]
    for word in BREAK.split(text):
        if lines[-1] and cell_len((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
        while cell_len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)


def print_markdown(text: str, directory: Path, console: Console | None = None) -> None:
    """Print a page of ours with its tables as tables.

    Args:
        text: Markdown, as the ledger's.
        directory: in which its figures are.
        console: where; None: the terminal.
    """
    console = console or Console()
    table: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip()[1:-1])
            table.append([_plain(cell.strip()) for cell in cells])
            continue
        if table:
            print_table("", table[0], table[2:], console=console)  # the second line is of dashes
            table = []
        figure = re.fullmatch(r"!\[(.*)\]\((.*)\)", line)
        said = f"{figure[1]}: {directory / figure[2]}" if figure else _plain(line.lstrip("# "))
        style = "bold" if line.startswith("#") else None
        console.print(
            escape(printable(said if line.strip() else "")),
            style=style,
            soft_wrap=True,
            highlight=False,
        )


def _plain(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"\1", text).replace("\\|", "|")
