"""Libraries that one file of tests needs, imported by its first test: every worker collects all."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


class Later:
    """A module that is imported when something of it is asked for.

    Args:
        name: of a library.
        extra: of kd_research that brings it; without it the file that asks is skipped.
    """

    def __init__(self, name: str, extra: str = "") -> None:
        self.name = name
        if extra and find_spec(name) is None:
            pytest.skip(f"the extra {extra} is not installed", allow_module_level=True)

    def __getattr__(self, item: str) -> Any:
        if item.startswith("_"):  # pytest asks everything whether it is a test, or a mock
            raise AttributeError(item)
        return getattr(import_module(self.name), item)
