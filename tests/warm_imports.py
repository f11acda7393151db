"""What the server of the tests' commands imports and works out before it forks."""

import gc
import importlib
import logging
import os
import tempfile
import threading
import weakref
from functools import cache

COMMANDS = (  # a run before all else that brings Lightning; below, what a sweep imports in its time
    *("torch", "kd_research.trial.run", "hydra", "optuna", "numpy", "pandas", "wandb"),
    *("kd_research.hydra_plugin", "kd_research.sweep.run", "kd_research.sweep.opening"),
    *("kd_research.report", "kd_research.export", "kd_research.training.spoken"),
    *("alembic.command", "optuna.storages._rdb.storage", "plotly.offline", "pyarrow.parquet"),
    *("sqlalchemy.orm", "sqlalchemy.dialects.sqlite", "omegaconf._impl", "pygments.lexers"),
    *("scipy.special", "requests", "pyarrow.pandas_compat", "kd_research.tracking.sweep"),
    "wandb.sdk.launch.inputs.internal",
)
WORKER = "xdist_worker"  # the module
WORKERS = (  # what shared_fixtures.py imports, then what many tests do
    *("torch", "kd_research.trial", "kd_research.trial.run", "quick_configs", "_pytest.config"),
    *("pandas", "sklearn.datasets", "datasets", "pyarrow.parquet", "requests", "sqlalchemy.orm"),
    *("kd_research.sweep.run", "kd_research.report", "kd_research.export", "kd_research.run"),
)


@cache
def prepare(for_worker: bool, package: str) -> None:
    """Import what forks of that kind import, before the first of them."""
    for name in WORKERS if for_worker else COMMANDS:
        importlib.import_module(name)
    if not for_worker:
        rehearse()
        if package:
            compose(package)
    assert threading.active_count() == 1, "a fork has the thread that forks alone"
    for each in list(weakref.finalize._registry):
        each.atexit = False  # of what was imported here: it ends with the server
    gc.collect()
    gc.freeze()


def rehearse() -> None:
    """What libraries work out once in a process and keep: mappers, statements, grammars."""
    import optuna
    import plotly.graph_objects as plots
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    typed = ["a=1", "+a.b=x/y", "a@b.c=d", "a=interval(1,20)", "a=1,2", "a=[1,x]", "a={b: 1e-3}"]
    OverridesParser.create().parse_overrides([*typed, "a='x y'", "a=${oc.env:HOME}", "a=null"])
    OmegaConf.to_container(OmegaConf.create({"a": 1, "b": "${a}", "c": "x-${b}"}), resolve=True)
    plots.Figure(plots.Scatter(x=[0], y=[1])).to_json()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as place:
        storage = optuna.storages.RDBStorage(f"sqlite:///{place}/study.db")
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler())
        for _ in range(2):
            trial = study.ask()
            study.tell(trial, trial.suggest_float("a", 0, 1) + trial.suggest_int("b", 0, 1))
        assert study.trials
        storage.engine.dispose()
    logging.disable(logging.NOTSET)


def compose(package: str) -> None:
    """The default configuration: its files are read, and Hydra's plugins found."""
    import hydra

    from kd_research import hydra_plugin
    from kd_research.configuration.config import register_resolvers

    register_resolvers()
    hydra_plugin.register()
    with hydra.initialize_config_dir(os.path.join(package, "conf"), version_base="1.3"):
        hydra.compose("config", return_hydra_config=True)
