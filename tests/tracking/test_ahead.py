"""W&B is imported by the server that a sweep's trials are forked from, once for all of them."""

import json
import multiprocessing
import os
import sys
import threading
from multiprocessing import forkserver
from pathlib import Path

import pytest
from forks import in_fork
from sweep_commands import make_plan

from kd_research.pools import local
from kd_research.pools.local import LocalPool
from kd_research.records.outside import OutsideError
from kd_research.sweep.opened_pool import opened_pool
from kd_research.tracking import imported_ahead, track
from kd_research.tracking.session import AHEAD, run_files


def a_trial(config, directory, told):
    before = set(sys.modules)
    with track(config, directory) as tracker:
        tracker.log({"epoch": 0, "val_accuracy": 0.5})
        assert f"-{os.getpid()}-" in os.environ["WANDB_SERVICE"], "its own"
    new = [name for name in set(sys.modules) - before if not name.startswith("encodings")]
    told.write_text(json.dumps(sorted(new)))


def a_server(config, output_dir):
    """As the forkserver, which imports the module and then forks."""
    os.environ |= {AHEAD: f"offline {output_dir}", "WANDB_SERVICE": "of whoever started this"}
    import kd_research.tracking.ahead  # noqa: F401

    assert {"wandb", "pandas", "plotly.graph_objects"} <= sys.modules.keys()
    assert not {AHEAD, "WANDB_SILENT"} & os.environ.keys()
    assert threading.active_count() == 1
    (place,) = (output_dir / "wandb" / "tmp").iterdir()
    made = sorted(place.iterdir())
    assert len(made) == 2
    for path in made:  # a person cleans up
        path.rmdir()
    place.rmdir()
    directory = output_dir / "runs" / "a"
    directory.mkdir(parents=True)
    assert in_fork(lambda: a_trial(config, directory, output_dir / "told")) == 0
    assert sorted(place.iterdir()) == made


def test_a_trial_imports_nothing_of_it(config, tmp_path):
    config["tracking"]["run_id"] = "a"
    config["output_dir"] = str(tmp_path)
    server = multiprocessing.get_context("spawn").Process(target=a_server, args=(config, tmp_path))
    server.start()
    server.join()
    assert server.exitcode == 0
    assert run_files(tmp_path, "a")
    assert list((tmp_path / "wandb" / "tmp").iterdir()) == []
    new = json.loads((tmp_path / "told").read_text())
    assert [name for name in new if name.startswith(("wandb", "pandas", "pydantic", "req"))] == []
    assert len(new) < 20


@pytest.mark.parametrize("text", ["raise RuntimeError", "import sys; sys.exit('bye')"])
def test_with_a_broken_wandb_a_server_goes_on(monkeypatch, tmp_path, text):
    (tmp_path / "wandb.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv(AHEAD, f"offline {tmp_path}")
    monkeypatch.delitem(sys.modules, "kd_research.tracking.ahead", raising=False)
    import kd_research.tracking.ahead  # noqa: F401

    assert AHEAD not in os.environ


@pytest.mark.parametrize(("mode", "times"), [("offline", 1), ("disabled", 0), ("csv", 0)])
def test_it_is_asked_for_where_the_trials_use_it(mode, times, monkeypatch):
    asked = []
    monkeypatch.setattr(LocalPool, "import_ahead", lambda self, *what: asked.append(what))
    plan = make_plan(f"tracking={mode}")
    with opened_pool(plan):
        pass
    found = "kd_research.tracking.ahead", {AHEAD: f"offline {plan.config.output_dir}"}
    assert asked == [found] * times


def test_a_server_that_it_ends_is_replaced_by_one_without(monkeypatch, caplog):
    names = []
    pool = LocalPool(slots=1)
    pool.import_ahead(*imported_ahead({"mode": "online"}, "o"))

    class Server:
        set_forkserver_preload = staticmethod(names.append)

        class Process:
            def __init__(self, target, args):
                pass

            def start(self):
                if not names:
                    raise EOFError

    pool._context = Server
    monkeypatch.setattr(local, "AHEAD_SECONDS", 0.0)
    assert isinstance(pool._start(()), Server.Process)
    assert [name for name in names[0] if "ahead" in name] == []
    assert "kd_research.tracking.ahead ends the process that imports it" in caplog.text
    monkeypatch.setattr(local, "SERVER_SECONDS", 0.0)
    names.clear()
    with pytest.raises(OutsideError, match="ends as it starts"):
        pool._start(())


def test_the_server_alone_has_the_variables(monkeypatch):
    seen = []
    monkeypatch.setattr(forkserver, "ensure_running", lambda: seen.append(os.environ.get(AHEAD)))
    pool = LocalPool(slots=1)
    pool.import_ahead(*imported_ahead({"mode": "online"}, str(Path("o"))))
    pool.warm()
    assert seen == ["online o"]
    assert AHEAD not in os.environ
