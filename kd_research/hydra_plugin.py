"""What Hydra must know of us before it composes: the sweeper, the sweeps and the models.

Registered by import from `run.py`. Hydra 1.3 takes plugins only from the `hydra_plugins` namespace
package unless told otherwise; Hydra 1.4 has dropped that rule.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from kd_research.configuration.config import ROOT, ConfigError, check, settle
from kd_research.configuration.own_folders import conf_folders, split
from kd_research.configuration.paths import is_empty
from kd_research.configuration.resolvers import why_not
from kd_research.configuration.sweep_files import SweepFiles, SweepPath
from kd_research.configuration.trainer_checks import precision_notes
from kd_research.data.files import missing_files
from kd_research.records.outside import PUT_BACK, OutsideError
from kd_research.records.printable import printable, typed
from kd_research.records.record import RECORD_NAME


class CheckFirst(Callback):
    """Tells everything that is wrong with a single run before Hydra makes its folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Hydra's hook, with the whole composed configuration.

        Raises:
            SystemExit: something is wrong, with all of it.
        """
        composed, config = config, config.copy()
        with open_dict(config):
            del config["hydra"]  # which cannot be resolved outside a job
        problems = []
        try:
            settle(config)
            check(config)
        except ConfigError as error:
            problems += error.problems
        for key in ("dataset", "teacher.dataset", "student.pretraining.dataset"):
            with suppress(OmegaConfBaseException):  # which `check` tells, and what is no mapping
                stated = OmegaConf.select(config, key, default=None)
                problems += missing_files(stated) if isinstance(stated, DictConfig) else []
        problems += _take_folder(composed)
        if problems:
            sys.exit("\n".join(problems))
        for note in precision_notes(config):
            print(note, file=sys.stderr)


def _take_folder(config: DictConfig) -> Iterator[str]:
    """Have Hydra take ~ for the home, or say why a run cannot have the folder that is stated."""
    try:
        if not str(config.hydra.run.dir).strip():
            yield is_empty("hydra.run.dir")
            return
        directory = Path(os.path.expanduser(str(config.hydra.run.dir)))
    except OmegaConfBaseException as error:
        yield why_not(error)
        return
    config.hydra.run.dir = str(directory)
    if (directory / RECORD_NAME).exists():
        yield (
            f"{directory} already holds a run; choose another hydra.run.dir, or rerun it with "
            f"python -m kd_research.trial {typed(directory)}"
        )


class OptunaSweeper(Sweeper):
    """What `-m` runs: `kd_research.sweep.run`, imported when it is needed."""

    def __init__(self, **options: Any):
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra's hand-over; the task function is not used: trials are no Hydra applications."""
        self.loader = hydra_context.config_loader
        self.composed = config

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep to `sweep.n_trials`; `arguments` are the command line's overrides."""
        from kd_research.sweep.methods import Comparison
        from kd_research.sweep.plan import Plan
        from kd_research.sweep.run import run_sweep  # not before: --help needs no Optuna

        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the sampler's own, beside busy workers
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it goes on
            signal.signal(signal.SIGHUP, signal.default_int_handler)  # the terminal was closed
        try:
            if self.options:
                raise ConfigError(
                    [
                        f"hydra.sweeper.{name} is of another sweeper; what is searched is typed as "
                        "KEY=interval(1,20), or stands in sweep.space"
                        for name in self.options
                    ]
                )
            sweep = self.composed.get("sweep")
            if isinstance(sweep, DictConfig) and "methods" in sweep:
                comparison = Comparison(self.loader, self.composed, arguments)
                print_notes(comparison.notes())
                comparison.run()
            else:
                plan = Plan(self.loader, self.composed, arguments)
                print_notes(plan.all_notes())
                run_sweep(plan)
        except ConfigError as error:
            sys.exit(str(error))
        except OmegaConfBaseException as error:  # a value refers to what there is not
            sys.exit(printable(why_not(error)))
        except OutsideError as error:
            print(
                printable(f"{error}; the same command goes on from here"),
                file=sys.stderr,
                flush=True,
            )
            sys.exit(PUT_BACK)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", flush=True)
            sys.exit(130)


def print_notes(notes: list[str]) -> None:
    """Print what is to be known before a sweep starts."""
    for note in notes:
        print(printable(note), flush=True)


def register() -> None:
    """Register the sweeper, the group of sweeps, a teacher and a student for every model."""
    _accept_own_package()
    for plugin in (OptunaSweeper, SweepFiles, SweepPath):
        Plugins.instance().register(plugin)
    target = f"{OptunaSweeper.__module__}.{OptunaSweeper.__qualname__}"
    store = ConfigStore.instance()
    # Hydra copies its sources for every composition; what the store gives is a copy already.
    vars(store)["__deepcopy__"] = lambda memo: store
    store.store(group="hydra/sweeper", name="kd", node={"_target_": target})
    folders = [ROOT / "conf", *conf_folders()]
    for path in sorted(path for folder in folders for path in (folder / "model").glob("*.yaml")):
        if f"{path.stem}.yaml" in store.repo.get("student", {}):
            continue
        model: dict[str, Any] = {"/model@model": path.stem}
        store.store(group="teacher", name=path.stem, node={"defaults": ["none", model]})
        none = dict.fromkeys(("checkpoint", "pretraining", "from_teacher", "view"))
        student = {"defaults": [model, "_self_"], **none, "gradient_checkpointing": False}
        store.store(group="student", name=path.stem, node=student)


def compose_once(arguments: Sequence[str]) -> None:
    """Spare Hydra a composition, whose only use is to read `hydra.mode`, where nobody sets that.

    Args:
        arguments: of the command line; with folders or a configuration of one's own it is left.
    """
    flags, overrides = split(arguments)
    may_set = conf_folders() or {flag[0] for flag in flags} - {"-m", "--multirun"}
    if not may_set and not any("hydra." in text for text in overrides):
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]


def tell_what_cannot_be_resolved() -> None:
    """One line, where `--cfg job --resolve` meets a value that refers to what there is not."""
    show = Hydra.show_cfg

    def told(self: Hydra, *given: Any, **more: Any) -> None:
        try:
            show(self, *given, **more)
        except OmegaConfBaseException as error:
            sys.exit(printable(why_not(error)))

    Hydra.show_cfg = told  # type: ignore[method-assign]


def _accept_own_package() -> None:
    check = getattr(Plugins, "is_in_toplevel_plugins_module", None)
    if check is None:  # Hydra 1.4
        return

    def accept(name: str) -> bool:
        return name.startswith("kd_research.") or bool(check(name))

    Plugins.is_in_toplevel_plugins_module = staticmethod(accept)  # type: ignore[assignment]
