"""Settings of a part that is not chosen: nothing would read them."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny import composed

from kd_research.configuration.config import ConfigError, check
from kd_research.configuration.overrides import _key


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
