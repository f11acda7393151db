"""Settings that nothing would read, or that are no numbers, are told with what to type."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny import composed

from kd_research.configuration.config import ConfigError, check, check_sweep
from kd_research.configuration.overrides import _key, explain


@pytest.mark.parametrize(
    ("key", "typed"),
    [
        ("transfer.iterations", "transfer=class_impressions"),
        ("student.adapter.r", "adapter@student.adapter=lora"),
    ],
)
def test_a_setting_of_what_is_not_chosen_is_told(key: str, typed: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"{key}=2"])
    (told,) = _key(override, composed())
    assert f"{typed} adds it" in told
    with pytest.raises(ConfigError, match=f"{key}: nothing reads it.*type {typed}"):
        check(composed(f"+{key}=2"))
    check(composed(typed))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("transfer.variant=2", "did you mean transfer.variants?"),
        ("sweep.budget.epoch=0.1", "did you mean sweep.budget.epochs?"),
        ("loss.temprature=3", "did you mean loss.temperature?"),
    ],
)
def test_a_slip_beside_a_papers_sweep_is_told_as_any_other(typed: str, meant: str) -> None:
    (told,) = explain(["-m", "+sweeps=papers/zskd_mnist", typed])
    assert meant in told


@pytest.mark.parametrize("key", ["sweep.seeds", "sweep.workers", "trainer.max_epochs"])
def test_a_truth_value_is_no_number(key: str) -> None:
    config = composed(f"{key}=true")
    with pytest.raises(ConfigError, match=rf"{key} must be a whole number >= \d.*, got True; try"):
        (check_sweep if key == "sweep.workers" else check)(config)
