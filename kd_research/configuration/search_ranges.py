"""The ranges in which losses say that they are worth searching, as a table for the documentation.

    python -m kd_research.configuration.search_ranges > docs/reference/search_ranges.md

Read from conf/loss/*.yaml: the mapping `search`, whose comments name the source of each range.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kd_research.configuration.resolvers import ROOT

LOSSES = ROOT / "conf" / "loss"
MOST = 4  # keys that one loss may search: its lambda, its temperature and two more
INTRODUCTION = """\
# What each loss searches

<!-- python -m kd_research.configuration.search_ranges > docs/reference/search_ranges.md -->

`python -m kd_research.run -m loss=NAME` searches the keys below, beside the student's width and,
but for losses on feature maps, its depth. Each loss states them in `search` of its
`conf/loss/NAME.yaml`, with the source of the range. A key with one value on the command line is not
searched, and `loss.lambda=interval(LOW,HIGH)` gives another range. Of several losses in one sweep
(`loss=kd,dkd`) each has its own ranges.

| loss | key | default | range | source of the range |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Range:
    """One key that a loss searches.

    Attributes:
        key: below `loss`.
        expression: in Hydra's sweep grammar.
        source: of the range; "" where the YAML does not say.
    """

    key: str
    expression: str
    source: str


def read(path: Path) -> list[Range] | None:
    """What a loss's YAML states; None where it states nothing, [] where nothing is searched."""
    content = _plain(path)
    if not isinstance(content.get("search"), dict):
        return None
    block = re.search(r"^search:.*\n((?:  .*\n)*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    sources = {}
    for line in block[1].splitlines() if block else ():
        key, _, source = line.strip().partition(":")
        sources[key] = source.partition("  # ")[2].strip()
    return [
        Range(key, str(expression), sources.get(key, ""))
        for key, expression in content["search"].items()
    ]


def _plain(path: Path) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    return dict(content)


def table() -> str:
    """The page, in Markdown."""
    rows = []
    for path in sorted(LOSSES.glob("*.yaml")):
        content = _plain(path)
        for name in content.get("defaults", ()):
            if isinstance(name, str) and name != "_self_":  # a group of another kind is a mapping
                content = {**_plain(LOSSES / f"{name}.yaml"), **content}
        for item in read(path) or ():
            default = content.get(item.key)
            rows.append(
                f"| {path.stem} | {item.key} | {default} | `{item.expression}` | {item.source} |"
            )
        if not read(path):
            rows.append(f"| {path.stem} | – | | | nothing of its own |")
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
