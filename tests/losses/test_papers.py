"""PAPERS.md and the help say what conf/loss does."""

import re

import pytest
from loss_cases import CASES, CONF, TRANSFORMERS, compose_loss

from kd_research.configuration.resolvers import first_lines

FILES = {name.partition("@")[0] for name in CASES}
TEXT = (CONF.parent / "PAPERS.md").read_text()
ROWS = {
    match[1]: line
    for line in TEXT.splitlines()
    if (match := re.match(r"\| `(\w+)`(?: \*batch\*)? \|", line))
}


def test_every_loss_has_a_row():
    assert set(ROWS) == (FILES | TRANSFORMERS) - {"kd_at"}
    assert "conf/loss/kd_at.yaml" in TEXT


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"ce"}))
def test_rows_have_the_defaults(name):
    cfg = compose_loss(name, *CASES[name].overrides[:1] if name == "dml" else ())
    given = {
        key: float(found[1])
        for key, symbol in (("lambda", "λ"), ("temperature", "T"))
        if (found := re.search(rf"(?<!\w){symbol} (\d[\d.e-]*\d|\d)", ROWS[name].split(" | ")[3]))
    }
    for key, value in given.items():
        assert cfg[key] == pytest.approx(value), key


@pytest.mark.parametrize("name", sorted(FILES - {"kd_at"}))
def test_relational_losses_are_marked(name):
    assert ("*batch*" in ROWS[name]) == (not CASES[name].pointwise and name != "crd")


def test_the_help_has_a_line_each():
    lines = first_lines("loss").splitlines()
    assert [line.split()[0] for line in lines] == sorted(FILES | TRANSFORMERS)
    assert all(len(line.split()) > 3 for line in lines)
