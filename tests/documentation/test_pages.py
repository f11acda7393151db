"""docs/: no link is dead, no key and no loss is undocumented, every command and example works."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pandas
import pytest
import warm
from documented import ROOT, blocks, commands, composed_problems, refused, write_files
from PIL import Image
from tiny import TINY, composed

from kd_research.configuration.config import save
from kd_research.records.measures import COSTS, METRICS, TRAINING_COSTS
from kd_research.records.record import CONFIG_NAME

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READABLE = [*PAGES, ROOT / "README.md", ROOT / "PAPERS.md", ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def generator():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    text = prose(page.read_text(encoding="utf-8"))
    if "<!-- generate papers -->" in text:
        text += (ROOT / "PAPERS.md").read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", READABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_contents() -> None:
    listed = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_no_key_is_undocumented() -> None:
    assert generator().undocumented() == []


def test_every_loss_has_a_formula_and_a_docstring() -> None:
    made = generator()
    page = made.losses()
    for path in sorted((ROOT / "conf" / "loss").glob("*.yaml")):
        part = page.split(f"## {path.stem}\n")[1].split("\n## ")[0]
        assert "**Formula.**" in part or path.stem == "kd_at", path.stem
        assert "\n::: kd_research.losses." in part or "_target_" not in path.read_text(), path.stem
    dkd = page.split("## dkd\n")[1].split("\n## ")[0]
    assert "| `loss.lambda` | `1.0` | the weight of the distillation term |" in dkd, "not another's"


def test_every_model_is_listed_with_its_parameters() -> None:
    page = generator().models().split("## Keys")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert set(rows) == {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    assert rows["resnet20"] == "278,324"
    assert rows["wrn_40_2"] == "2,255,156"


@pytest.mark.parametrize(
    ("metric", "ours", "half", "shown"),
    [
        ("test_accuracy", 0.95, 0.1, "85.00% to 100.00%"),
        ("test_accuracy", 0.05, 0.1, "0.00% to 15.00%"),
        ("test_errors", 60, 80.5, "0 to 140.5"),
        ("test_errors", 5466, 8438.5, "0 to 10000"),
    ],
)
def test_an_interval_ends_at_what_is_possible(
    metric: str, ours: float, half: float, shown: str
) -> None:
    row = {"row": "a", "metric": metric, "ours": [ours, ours], "half_width": half, "verdict": "-"}
    assert generator()._reproduced(row, 10000)[4] == shown


def test_every_row_of_every_paper_is_shown() -> None:
    made = generator()
    listed = (DOCS / "how-to" / "paper_row.md").read_text(encoding="utf-8")
    page = made.reproductions()
    ledgers = DOCS / "reproductions" / "ledgers"
    for path in sorted((ROOT / "sweeps" / "papers").glob("*.yaml")):
        part = page.split(f"## {path.stem}\n")[1].split("\n## ")[0]
        assert f"+sweeps=papers/{path.stem}" in part
        assert f"`{path.stem}`" in listed
        paper, rows = made.rows_of(path)
        for label, row in rows.items():
            assert f"| {label} | " in part, "run or not"
            for metric, value in (row.get("expected") or {}).items():
                number = f"{100 * value:.2f}%" if "accuracy" in metric else f"{value:g}"
                assert f"| {label} | {metric} | {number} |" in part
        for claim in paper.get("claims") or ():
            assert f"\n- {claim['text']}: **" in part
        found = [line for line in part.splitlines() if line.startswith("|")][2:]
        if (ledgers / f"{path.stem}.json").exists():
            ledger = json.loads((ledgers / f"{path.stem}.json").read_text())
            for row in ledger["rows"]:
                line = next(x for x in found if x.startswith(f"| {row['row']} | {row['metric']} |"))
                assert f"({len(row['ours'])}) |" in line or not row["ours"]
                assert f"| {row['verdict']} | {row['hours']:.3f} |" in line
            assert ("Spearman's rho" in part) == ("ranking" in ledger)
        elif path.stem in made.BEFORE:
            assert "**Not run again yet**" in part
            marked = [line for line in found if "(old data) |" in line]
            assert all(
                line in marked or "| not run |" in line for line in found if "| test_" in line
            )
            assert marked
            assert not any("| val_" in line for line in marked)
        else:
            assert re.search(r"\*\*Not run yet\.\*\* What it takes: .*(hours|day)", part)
            assert all(line.endswith("| - | - | not run | - |") for line in found)


def test_earlier_ledgers_are_marked() -> None:
    old = generator().reproductions().split("## crd_cifar10\n")[1].split("\n## ")[0]
    said = "44.49% (3) | 41.29% to 47.69% | reduced |"
    assert f"| resnet8_alone | val_accuracy | - | {said}" in old
    command = old.split("    python")[1].splitlines()[0]
    assert "'teacher.scheduler.milestones=[300,360,420]'" in command, "what made the lines"
    assert "../shared" not in command
    for name in ("compare_methods", "what_distillation_buys"):
        text = (DOCS / "reproductions" / f"{name}.md").read_text(encoding="utf-8")
        assert "**Made on an earlier copy of MNIST**" in text, name


def test_the_best_of_many_on_test_stands_beside_what_validation_chose() -> None:
    row = {"row": "distilled: best of 6 settings", "metric": "test_accuracy", "published": 0.7}
    row |= {"ours": [0.6, 0.62], "half_width": 0.1, "best": 0.65, "verdict": "reduced"}
    assert generator()._reproduced(row)[3] == "61.00% (2), best of all on test 65.00%"


def test_a_ranking_stands_below_its_ledger() -> None:
    gap = {"better": "a", "worse": "b", "published": 0.1, "ours": 0.2, "half_width": 0.1}
    gaps = [{**gap, "said": "same sign"}, {**gap, "said": "not distinguishable"}]
    found = {"metric": "test_accuracy", "ours": {"a": 1, "b": 2}, "num_seeds": 2, "rho": 0.5}
    found |= {"over_seeds": [0.25, 0.75], "over_rows": None, "gaps": gaps}
    assert generator()._ranked(found) == (
        "The order of 2 rows by test_accuracy, n = 2 each: Spearman's rho 0.50; 95 % 0.25 to 0.75 "
        "over seeds. Of 2 pairs that differ in the paper by more than it can show: 1 same sign, "
        "1 not distinguishable.\n"
    )


def test_every_metric_and_cost_is_explained() -> None:
    text = (DOCS / "reference" / "metrics_and_costs.md").read_text(encoding="utf-8")
    assert {
        name for name in (*METRICS, *COSTS, *TRAINING_COSTS) if f"`{name}`" not in text
    } == set()


SHOWN = [page for page in PAGES if page.parent.name != "reproductions"]
IN_README = {tuple(words) for words in commands((ROOT / "README.md").read_text(encoding="utf-8"))}
TYPED = {  # every command of the pages, once
    tuple(words): page
    for page in SHOWN
    for words in commands(page.read_text(encoding="utf-8"))
    if tuple(words) not in IN_README
}
RUNS = [list(words[3:]) for words in TYPED if words[:3] == ("python", "-m", "kd_research.run")]
FROM_OUTSIDE = ("hub_weights", "hydra/launcher", "--help")  # the Hub; a plugin; Hydra's own


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages' commands name."""
    (tmp_path / "DIR").mkdir()
    (tmp_path / "my" / "conf").mkdir(parents=True)
    for name in ("my/teacher.pt", "my/start.pt", "my/resnet.pt", "iris.csv", "DIR/train-0.parquet"):
        (tmp_path / name).touch()
    language = ("dataset=tinyshakespeare", "student=gpt", "teacher=none", "loss=ce")
    for name, overrides in {"DATE/TIME": TINY, "teacher": language}.items():
        folder = tmp_path / "outputs" / "runs" / name
        save(composed(*overrides), folder / CONFIG_NAME)
        (folder / "weights.pt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_composes(here: Path) -> None:
    outside = (*FROM_OUTSIDE, "--config-dir")  # the last: the next test
    tried = [each for each in RUNS if not any(word in " ".join(each) for word in outside)]
    wrong = {" ".join(each): found for each in tried if (found := composed_problems(each))}
    assert wrong == {}
    assert len(tried) > 30


@pytest.mark.parametrize(
    "page", [page for page in SHOWN if "# my/" in page.read_text()], ids=lambda page: page.stem
)
def test_what_stands_in_a_folder_of_your_own_is_accepted(
    page: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text(encoding="utf-8")
    write_files(text, here)
    for tree in ("oak", "birch"):
        (here / "leaves" / tree).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(here / "leaves" / tree / "001.png")
    tried = [words[3:] for words in commands(text) if "--config-dir" in words]
    assert tried
    for arguments in tried:
        assert refused(arguments, monkeypatch) == ""


def test_python_examples_run(here: Path) -> None:
    """Those of own_loop.md are run by tests/losses/test_library.py; the others here."""
    shown = [
        block
        for page in SHOWN
        if page.stem != "own_loop"
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.language == "python"
    ]
    rows = {"on_front": [True], "trial": [0], "val_accuracy": [0.9], "num_params": [10]}
    (here / "outputs" / "sweeps" / "digits").mkdir(parents=True)
    pandas.DataFrame(rows).to_parquet(here / "outputs" / "sweeps" / "digits" / "trials.parquet")
    assert shown
    for block in shown:
        exec(block.text, {"__name__": "example"})


def test_what_a_wrong_command_says_is_what_the_page_shows(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed, said = blocks((DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8"))[:2]
    arguments = typed.text.removeprefix("$ python -m kd_research.run").split()
    assert refused(arguments, monkeypatch) == said.text.strip()


def test_the_site_is_built_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("material")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = warm.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(https?:[^\"]+)", text)
        assert [url for url in loaded if "canonical" not in url] == [], page
    assert (tmp_path / "javascripts" / "worker.js").is_file()  # search, from disk
    losses = (tmp_path / "reference" / "losses.html").read_text(encoding="utf-8")
    assert "Decoupled" in losses
