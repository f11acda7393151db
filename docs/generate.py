"""What of the reference is made from the code: mkdocs calls this file as a hook.

A page says `<!-- generate NAME -->`; that line becomes what the function NAME of PARTS gives, in
Markdown, while the site is built. Nothing of it is stored.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MARK = re.compile(r"^<!-- generate ([\w/]+) -->$", re.MULTILINE)
KEY = re.compile(r"^( *)([\w.@/-]+):(?: (.*))?$")
PAGES = {"loss": "losses.md", "model": "models.md"}
WORKER = "https://unpkg.com/iframe-worker/shim"  # what Material would load instead
GROUPS = (  # in the order in which an experiment is thought of
    *(
        "dataset",
        "augment",
        "teacher",
        "model",
        "loss",
        "transfer",
        "text",
        "layers",
        "optimizer",
        "scheduler",
    ),
    *("trainer", "tracking", "sweep", "sampler", "pool"),
)


class Key(NamedTuple):
    """One key of a YAML file: its path, its value as written, its comment ("" without)."""

    path: str
    value: str
    comment: str


def first_line(path: Path) -> str:
    """The comment that a YAML begins with, without its #."""
    line = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return line.removeprefix("# ") if line.startswith("# ") else ""


def keys(path: Path) -> Iterator[Key]:
    """The keys of a YAML, with the comments beside them; `defaults` and `_target_` are left out."""
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = KEY.match(line)
        if not found:
            continue
        depth, name = len(found[1]), found[2]
        while above and above[-1][0] >= depth:
            above.pop()
        above.append((depth, name))
        value, _, comment = (found[3] or "").partition("# ")
        names = [each for _, each in above]
        of_parts = {"terms", "text"} & set(names)  # a loss states conf/text/NAME.yaml as they are
        if names[0] != "defaults" and not name.startswith("_") and not of_parts:
            yield Key(".".join(names), value.strip(), comment.strip())


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` of a loaded YAML."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets(value)


def load(path: Path) -> dict[str, Any]:
    """A YAML, unresolved."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    return dict(content)


def docstring_arguments(target: str) -> dict[str, str]:
    """What the docstring of a class or function of ours says of its arguments, by name."""
    module, _, name = target.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    block = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.getdoc(thing) or "", re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", block[1] if block else "", re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in found}


@functools.cache
def meanings(group: str) -> dict[str, str]:
    """Key -> what it is, of a group: a comment in any of its files, or an argument's docstring."""
    said: dict[str, str] = {}
    paths = sorted((CONF / group).glob("*.yaml"))
    for key in (key for path in paths for key in keys(path)):
        if key.comment:
            said.setdefault(key.path, key.comment)
    foreign: dict[str, str] = {}
    for path in paths:
        for target in targets(load(path)):
            if target.startswith("kd_research."):
                for name, text in docstring_arguments(target).items():
                    said.setdefault(name, text)
            else:
                for key in keys(path):
                    foreign.setdefault(key.path, f"an argument of `{target}`")
    if group == "trainer":
        for key in (key for path in paths for key in keys(path)):
            foreign.setdefault(key.path, "an argument of Lightning's `Trainer`")
    return {**foreign, **said}


EVERY_LOSS = {
    "lambda": "the weight of the distillation term",
    "temperature": "T > 0, of the softmaxes",
    "ce_weight": "of the cross-entropy with the labels",
    "student_layers": "of the student, by module path",
    "teacher_layers": "of the teacher, by module path",
}


def own_meanings(path: Path) -> dict[str, str]:
    """Key -> what it is in this file: its comment, or what the docstring of its `_target_` says."""
    said = {key.path: key.comment for key in keys(path) if key.comment}
    for target in targets(load(path)):
        if target.startswith("kd_research."):
            for name, text in docstring_arguments(target).items():
                said.setdefault(name, text)
    return {**EVERY_LOSS, **said} if path.parent.name == "loss" else said


def meaning(path: str, said: dict[str, str]) -> str:
    """What a key is; that of the mapping which it stands in, where it has none of its own."""
    while path:
        if path in said:
            return said[path]
        path = path.rpartition(".")[0]
    return ""


def undocumented() -> list[str]:
    """Keys of conf/ that nothing explains, and files without a first line that does."""
    missing = []
    for group in GROUPS:
        said = meanings(group)
        for path in sorted((CONF / group).glob("*.yaml")):
            said = own_meanings(path) if group == "loss" else said
            missing += [] if first_line(path) else [f"conf/{group}/{path.name}: its first line"]
            missing += [
                f"conf/{group}/{path.name}: {key.path}"
                for key in keys(path)
                if not meaning(key.path, said)
            ]
    top = {key.path: key.comment for key in keys(CONF / "config.yaml") if key.comment}
    return missing + [
        f"conf/config.yaml: {key.path}"
        for key in keys(CONF / "config.yaml")
        if not meaning(key.path, top) and not key.path.startswith("hydra")
    ]


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell(item) for item in line)} |" for line in lines) + "\n"


def configuration() -> str:
    """Every key: of config.yaml, then group by group with its choices."""
    top = [key for key in keys(CONF / "config.yaml") if not key.path.startswith("hydra")]
    said = {key.path: key.comment for key in top}
    rows = [(f"`{key.path}`", f"`{key.value}`" if key.value else "", said[key.path]) for key in top]
    parts = ["## Of a run\n", table(("key", "default", "what it is"), rows)]
    for group in GROUPS:
        paths = sorted((CONF / group).glob("*.yaml"))
        parts.append(f"## {group}\n")
        if group in ("loss", "model"):
            parts.append(f"They have a page of their own: [{group}]({PAGES[group]}).\n")
            continue
        choices = [(f"`{path.stem}`", first_line(path)) for path in paths]
        parts.append(table(("choice", "what it is"), choices))
        said, values = meanings(group), {}
        for path in paths:
            for key in keys(path):
                values.setdefault(key.path, {}).setdefault(key.value, path.stem)
        rows = []
        for name, found in values.items():
            shown = " or ".join(f"`{value}`" for value in found if value) if len(found) < 4 else ""
            rows.append((f"`{name}`", shown or "by choice", meaning(name, said)))
        parts.append(table(("key", "default", "what it is"), rows))
    return "\n".join(parts)


def paper_rows() -> dict[str, list[str]]:
    """Loss -> the cells of its row in PAPERS.md."""
    text = (ROOT / "PAPERS.md").read_text(encoding="utf-8")
    rows = {}
    for line in text.splitlines():
        found = re.match(r"\| `(\w+)`(?: \*batch\*)? \|", line)
        if found:
            rows[found[1]] = [item.strip() for item in re.split(r"(?<!\\)\|", line)[2:-1]]
    return rows


def losses() -> str:
    """Every loss: its line, its formula, its keys, and the docstrings of its terms."""
    parts, papers = [], paper_rows()
    for path in sorted((CONF / "loss").glob("*.yaml")):
        parts.append(f"## {path.stem}\n\n{first_line(path)}\n")
        if path.stem in papers:
            paper, formula, origin, ours = papers[path.stem]
            parts.append(f"**Formula.** {formula}\n" if formula else "")
            parts.append(f"**Defaults.** {origin}\n" if origin else "")
            parts.append(f"**Not the paper's.** {ours}\n" if ours else "")
        said = own_meanings(path)
        rows = [
            (f"`loss.{key.path}`", f"`{key.value}`", meaning(key.path, said))
            for key in keys(path)
            if not key.path.startswith("search")
        ]
        parts.append(table(("key", "default", "what it is"), rows) if rows else "")
        named = dict.fromkeys(each for each in targets(load(path)) if "kd_research.losses" in each)
        parts += [f"::: {target}\n    options: {{heading_level: 3}}\n" for target in named]
    return "\n".join(parts)


def papers() -> str:
    """PAPERS.md, without its title."""
    text = (ROOT / "PAPERS.md").read_text(encoding="utf-8")
    return text.split("\n", 1)[1]


def parameters(name: str, **dataset: Any) -> str:
    """How many parameters conf/model/NAME.yaml makes; counted without memory for them."""
    import torch
    from hydra.utils import instantiate

    from kd_research.configuration.config import register_resolvers

    register_resolvers()
    config = OmegaConf.create({"dataset": dataset, "model": load(CONF / "model" / f"{name}.yaml")})
    while "defaults" in config.model:
        base = load(CONF / "model" / f"{config.model.pop('defaults')[0]}.yaml")
        config.model = OmegaConf.merge(base, config.model)
    try:
        with torch.device("meta"):
            model = instantiate(config.model)
    except Exception:  # a package that is not installed, a name that must be given
        return "by its settings"
    return f"{sum(value.numel() for value in model.parameters()):,}"


def models() -> str:
    """Every model with its parameters, at 100 classes of images, or of its own kind of data."""
    shape = {"num_classes": 100, "input_shape": [3, 32, 32]}
    text = {"num_classes": 2, "vocab_size": 10000, "length": 64, "context": 64}
    rows = []
    for path in sorted((CONF / "model").glob("*.yaml")):
        content = path.read_text(encoding="utf-8")
        of_text = "vocab_size" in content or path.stem.startswith("gpt")
        count = parameters(path.stem, **(text if of_text else shape))
        rows.append((f"`{path.stem}`", count, first_line(path)))
    found = [
        (f"`{path.stem}`", f"`{key.path}`", f"`{key.value}`", own_meanings(path).get(key.path, ""))
        for path in sorted((CONF / "model").glob("*.yaml"))
        for key in keys(path)
        if "${dataset" not in key.value
    ]
    counts = table(("`student=`, `teacher=`", "parameters", "what it is"), rows)
    return f"{counts}\n## Keys\n\n{table(('model', 'key', 'default', 'what it is'), found)}"


def samplers() -> str:
    """The samplers, a line each."""
    paths = sorted((CONF / "sampler").glob("*.yaml"))
    return table(("`sampler=`", "what it is"), [(f"`{p.stem}`", first_line(p)) for p in paths])


def sweeps() -> str:
    """The named sweeps of sweeps/, with the first lines of each."""
    rows = []
    for path in sorted((ROOT / "sweeps").rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        said = [
            line[2:] for line in lines[1:6] if line.startswith("# ") and "python -m" not in line
        ]
        name = path.relative_to(ROOT / "sweeps").with_suffix("")
        rows.append((f"`+sweeps={name}`", " ".join(said)))
    return table(("sweep", "what it is"), rows)


def commands() -> str:
    """The help of every command."""
    from kd_research.commands import MODULES

    parts = []
    for word, (module, what) in MODULES.items():
        parts.append(f"## kd {word}\n\n`python -m {module}`: {what}\n")
        if word not in ("run", "trial"):  # whose help is Hydra's, and none
            command = importlib.import_module(
                module if word in ("remeasure", "generate") else f"{module}.__main__"
            )
            with (
                contextlib.redirect_stdout(io.StringIO()) as printed,
                contextlib.suppress(SystemExit),
            ):
                command.main(["sync", "--help"] if word == "track" else ["--help"])
            parts.append(f"```text\n{printed.getvalue().strip()}\n```\n")
    return "\n".join(parts)


# Ledgers that were made by an earlier state of the program, or of the data, and not run again yet.
BEFORE = {
    "crd_cifar10": (
        "**Not run again yet**: measured on the first 1,000 test images, and reduced; that paper "
        "has no rows on CIFAR-10. See [its page](crd_cifar10.md)."
    ),
}


def reproductions() -> str:
    """Every row of every ledger, from ledgers/*.json, earlier pages, or, not run yet, the sweep."""
    folder = ROOT / "docs" / "reproductions"
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("ledgers/*.json")}
    parts = []
    for path in sorted((ROOT / "sweeps" / "papers").glob("*.yaml")):
        name, (paper, stated) = path.stem, rows_of(path)
        lines = path.read_text(encoding="utf-8").split("\ndefaults:")[0].splitlines()[1:]
        command, *cost = [line.removeprefix("# ") for line in lines]
        not_run = _not_run(paper, stated)
        ledger = found.get(name) or _earlier(folder / f"{name}.md") or not_run
        typed = " ".join([command, *map(shlex.quote, ledger["typed"])])
        parts.append(f"## {name}\n\n{' '.join(paper['citation'].split())}\n\n    {typed}\n")
        if name in found:
            everything = [*ledger["rows"], *ledger.get("unpublished", ())]
            total = sum({row["row"]: row["hours"] for row in everything}.values())
            before = ledger.get("preparation_hours")  # not noted in earlier ledgers
            parts.append(
                f"{total:.2f} hours by the clock, one run after the other"
                f"{'' if before is None else f', after {before:.2f} before the first'} "
                f"({', '.join(ledger['devices'])}), commit {', '.join(ledger['commits'])}.\n"
            )
        else:
            parts.append(
                f"{BEFORE.get(name, '**Not run yet.**')} What it takes: {' '.join(cost)}\n"
            )
        head = ("row", "metric", "published", "ours (n)", "95 % interval", "verdict", "hours")
        kinds = ("rows", "best_of", "unpublished")
        shown = [row for kind in kinds for row in ledger.get(kind, ())]
        labels = {row["row"] for row in shown}  # sweep.only leaves rows out
        left_out = [*not_run["rows"], *not_run["unpublished"]]
        shown += [row for row in left_out if row["row"] not in labels]
        num_test = paper.get("test_examples", math.inf)
        parts.append(table(head, [_reproduced(row, num_test) for row in shown]))
        claims = [f"- {each['text']}: **{each['verdict']}**" for each in ledger.get("claims", ())]
        parts.append("\n".join(["Claims:", "", *claims, ""]) if claims else "")
        parts.append(_ranked(ledger["ranking"]) if "ranking" in ledger else "")
    return "\n".join(part for part in parts if part)


@functools.cache
def rows_of(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a paper's sweep states of the paper, and label -> row of those that it runs."""
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    rows: dict[str, Any] = {}
    for other in content["defaults"]:
        if isinstance(other, str) and other.startswith("papers/"):
            rows |= rows_of(ROOT / "sweeps" / f"{other}.yaml")[1]
    sweep = content["sweep"]
    for label, row in (sweep.get("rows") or {}).items():
        rows[label] = {**rows.get(label, {}), **row}
    only = sweep.get("only") or ["*"]
    chosen = [label for label in rows if any(fnmatchcase(label, each) for each in only)]
    return sweep["paper"], {label: rows[label] for label in chosen}


def _not_run(paper: dict[str, Any], stated: dict[str, Any]) -> dict[str, Any]:
    """A ledger of what is stated."""
    line = {"ours": (), "half_width": None, "verdict": "not run", "hours": None}
    rows = [
        {**line, "row": label, "metric": metric, "published": value}
        for label, row in stated.items()
        for metric, value in (row.get("expected") or {}).items()
    ]
    best_of = [
        {**line, "row": f"{each['text']}: best of {len(each['rows'])} settings", "metric": metric}
        | {"published": value}
        for each in paper.get("best_of") or ()
        for metric, value in each["expected"].items()
    ]
    others = [
        {**line, "row": label, "metric": "-"}
        for label, row in stated.items()
        if not row.get("expected")
    ]
    claims = [{"text": claim["text"], "verdict": "not run"} for claim in paper.get("claims") or ()]
    found = {"typed": (), "rows": rows, "best_of": best_of, "unpublished": others}
    return {**found, "claims": claims}


def _reproduced(row: dict[str, Any], num_test: float = math.inf) -> tuple[str, ...]:
    """One line of the table; of `num_test` examples there are no more errors."""
    ours, half, accuracy = row["ours"], row["half_width"], "accuracy" in row["metric"]

    def shown(value: float) -> str:
        return f"{100 * value:.2f}%" if accuracy else f"{value:.1f}".removesuffix(".0")

    mean = sum(ours) / len(ours) if ours else 0.0
    low, high = max(0.0, mean - (half or 0)), mean + (half or 0)  # of errors and accuracies
    high = min(1.0 if accuracy else num_test, high)
    published, hours, best = row.get("published"), row.get("hours"), row.get("best")
    by_rule = "" if best is None else f", best of all on test {shown(best)}"
    return (
        row["row"],
        row["metric"],
        "-" if published is None else shown(published),
        f"{shown(mean)} ({len(ours)}){by_rule}" if ours else "-",
        "-" if half is None else f"{shown(low)} to {shown(high)}",
        row["verdict"],
        "-" if hours is None else f"{hours:.3f}",
    )


def _ranked(ranking: dict[str, Any]) -> str:
    """Spearman's rho of a ledger, and what became of the published differences."""
    said = [gap["said"] for gap in ranking["gaps"]]
    counts = ", ".join(f"{said.count(each)} {each}" for each in sorted(set(said), reverse=True))
    over = [
        f"95 % {interval[0]:.2f} to {interval[1]:.2f} {what}"
        for interval, what in (
            (ranking["over_seeds"], "over seeds"),
            (ranking["over_rows"], "over rows as well"),
        )
        if interval
    ]
    rho = "-" if ranking["rho"] is None else f"{ranking['rho']:.2f}"
    return (
        f"The order of {len(ranking['ours'])} rows by {ranking['metric']}, n = "
        f"{ranking['num_seeds']} each: Spearman's rho {'; '.join([rho, *over])}. Of {len(said)} "
        f"pairs that differ in the paper by more than it can show: {counts or '-'}.\n"
    )


def _earlier(page: Path) -> dict[str, Any] | None:
    """What a page has from before there was ledger.json, rows without published numbers."""
    from kd_research.report.ledger_data import PLACES

    text = page.read_text(encoding="utf-8") if page.exists() else ""
    others, metrics, typed = [], [], []
    for line in text.splitlines():
        if line.startswith("    python -m kd_research.run -m +sweeps=papers/") and not typed:
            words = [word for word in shlex.split(line) if "=" in word]
            typed = [word for word in words if not word.lstrip("+").startswith(PLACES)]
        cells = [each.strip() for each in line.strip("|").split("|")]
        if cells[0] == "row without a published number":
            metrics = cells[1:-1]
        elif metrics and len(cells) == len(metrics) + 2 and "---" not in cells[0]:
            for metric, cell in zip(metrics, cells[1:-1], strict=True):
                is_old = cell != "-" and metric.startswith("test")
                said = f"{cells[-1]} (old data)" if is_old else cells[-1]
                others.append({**_of_page(cell), "row": cells[0], "metric": metric})
                others[-1]["verdict"] = said
        else:
            metrics = metrics if line.startswith("| ---") else []
    return {"typed": typed, "rows": (), "unpublished": others} if others else None


def _of_page(cell: str) -> dict[str, Any]:
    """Three seeds of a mean and deviation, `93 ± 5 (3)`; none of another cell."""
    from kd_research.report.verdicts import half_width

    found = re.fullmatch(r"([\d.]+) ± ([\d.]+)(%?) \(3\).?", cell)
    ours: tuple[float, ...] = ()
    if found:
        scale = 100 if found[3] else 1
        mean, spread = float(found[1]) / scale, float(found[2]) / scale
        ours = (mean - spread, mean, mean + spread)
    return {"ours": ours, "half_width": half_width(ours), "hours": None}


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (configuration, losses, papers, models, samplers, sweeps, commands, reproductions)
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The hook of mkdocs: put what is generated in its place."""
    return MARK.sub(lambda found: PARTS[found[1]](), markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The hook of mkdocs: what makes search work from disk is ours, not a server's."""
    return output.replace(WORKER, "../" * page.url.count("/") + "javascripts/worker.js")


def on_post_template(output_content: str, **_: Any) -> str:
    """The hook of mkdocs for 404.html: the same."""
    return output_content.replace(WORKER, "javascripts/worker.js")


if __name__ == "__main__":
    print(PARTS[sys.argv[1]]())
