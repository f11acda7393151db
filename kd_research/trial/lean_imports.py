"""What Lightning imports and a run does not need stays out: it is most of a process's start.

Measured by `benchmarks/startup.py`. Two things are left out:

- torchmetrics imports SciPy, Matplotlib and transformers where they are installed, for metrics
  that no run computes. It works without them, so while it is imported it does not see them. A
  metric that needs one, asked for in the process of a run, says that it is not installed.
- Lightning and torch's optimizers import TorchDynamo, the compiler's front end, to ask whether a
  module is compiled, and to say that an optimizer's step is not to be; so does each of several
  ranks, to ask how its exchange of gradients is compiled. Where nothing is compiled a stand-in
  answers; anything else that is asked of it (`torch.compile`, an export) loads
  TorchDynamo itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"
UNUSED = frozenset({"matplotlib", "scipy", "transformers"})


def leave_out() -> None:
    """To be called before Lightning is imported; what is imported already stays as it is."""
    import torch

    if NAME not in sys.modules and "lightning" not in sys.modules:
        stand_in = _StandIn(NAME)
        sys.modules[NAME] = torch._dynamo = stand_in
        sys.meta_path.insert(0, _Submodules())
    if "torchmetrics" not in sys.modules:
        _import_torchmetrics()


class _Compiled(type):
    """A class of what is compiled: nothing, as long as TorchDynamo is not there."""

    def __instancecheck__(cls, instance: object) -> bool:
        real = sys.modules[NAME]
        return not isinstance(real, _StandIn) and isinstance(instance, real.OptimizedModule)


class _OptimizedModule(metaclass=_Compiled):
    pass


class _Part:
    """A part of TorchDynamo, before anything is compiled.

    Args:
        name: of the module below TorchDynamo.
        answers: its functions that ranks call; each other attribute is the real one's.
    """

    def __init__(self, name: str, **answers: Callable[[], Any]) -> None:
        self.__dict__ |= {"_name": name, "_answers": answers}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._answers and isinstance(sys.modules[NAME], _StandIn):
            return self._answers[name]
        return getattr(getattr(_load(), self._name), name)


class _StandIn(ModuleType):
    """TorchDynamo, before anything is compiled. Each other attribute is the real one's."""

    OptimizedModule = _OptimizedModule
    trace_rules = _Part("trace_rules", clear_lru_cache=lambda: None)  # nothing is cached
    utils = _Part("utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")  # as it is by default
    __path__: list[str] = []  # its submodules are found by _Submodules

    @staticmethod
    def disable(fn: Callable[..., Any] | None = None, *arguments: Any, **options: Any) -> Any:
        """`fn` itself: what is not compiled need not be kept from being compiled."""
        real = sys.modules[NAME]
        if isinstance(real, _StandIn):
            return fn if fn is not None else lambda function: function
        return real.disable(fn, *arguments, **options)

    @staticmethod
    def graph_break(*arguments: Any, **options: Any) -> None:
        """A compiled graph would end here."""
        real = sys.modules[NAME]
        if not isinstance(real, _StandIn):
            real.graph_break(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module where its file is
            raise AttributeError(name)
        return getattr(_load(), name)


class _Submodules(MetaPathFinder):
    """Finds `torch._dynamo.X` by loading `torch._dynamo`, which imports its own parts."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(NAME + ".") or not isinstance(sys.modules.get(NAME), _StandIn):
            return None
        return ModuleSpec(name, _Loaded())


class _Loaded(Loader):
    """A submodule as its package has imported it."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _load()
        return importlib.import_module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It was, when it was imported."""


def _load() -> ModuleType:
    """TorchDynamo itself, in the place of its stand-in."""
    import torch

    if isinstance(sys.modules[NAME], _StandIn):
        del sys.modules[NAME]
        torch._dynamo = importlib.import_module(NAME)
    return sys.modules[NAME]


def _import_torchmetrics() -> None:
    """With UNUSED taken for not installed, which torchmetrics allows for."""
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    if not hasattr(imports, "_version"):  # another version of it: then all is imported
        return
    version, available = imports._version, imports.package_available

    def version_seen(name: str) -> Any:
        if name in UNUSED:
            raise imports.PackageNotFoundError(name)
        return version(name)

    def seen(name: str) -> bool:
        return name.partition(".")[0] not in UNUSED and bool(available(name))

    imports._version, imports.package_available = version_seen, seen
    try:
        importlib.import_module("torchmetrics")
    finally:
        imports._version, imports.package_available = version, available
