from contextlib import suppress
from functools import cache

import pytest


@pytest.fixture(scope="session", autouse=True)
def torch_looks_for_onnx_functions_once():
    """At every export it does so anew, in a third of a small one's time."""
    with suppress(ImportError):  # without the extra, or where it has moved
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
