"""Sweeps as a user starts them, and parts of them to break on purpose."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from warm import Command

from kd_research import hydra_plugin
from kd_research.configuration.config import register_resolvers
from kd_research.pools.local import End
from kd_research.records.record import write_record
from kd_research.report.load import load_sweep
from kd_research.sweep import run as sweeper
from kd_research.sweep.opening import open_study
from kd_research.sweep.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
PATHS = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
TINY = [
    "teacher=mlp",
    "teacher.model.width=8",
    "teacher.model.depth=1",
    "teacher.trainer.max_epochs=1",
    "student.model.width=8",
    "student.model.depth=1",
    "loss.lambda=0.5",
    "loss.temperature=interval(1,20)",
    "trainer.max_epochs=1",
    "sampler=random",
    "tracking=disabled",
    "sweep.workers=2",
    "sweep.name=s",
    "sweep.baseline=false",
]


NOOP = [
    "pool.program=noop_trial",
    "tracking=disabled",
    "sampler=random",
    "sweep.name=s",
    "sweep.baseline=false",
]


def start(output_dir, *overrides, base=TINY, environment=(), real=False, **popen):
    """`python -m kd_research.run -m` on tiny models, from another directory than the code's.

    Args:
        real: an interpreter of its own, where that is the subject; else a fork of a warm one.
    """
    command = [sys.executable, "-m", "kd_research.run", "-m", *base, f"output_dir={output_dir}"]
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", **dict(environment)}
    popen = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **popen}
    output_dir.mkdir(parents=True, exist_ok=True)
    kind = subprocess.Popen if real else Command
    return kind([*command, *overrides], cwd=output_dir, env=environment, **popen)


def sweep(output_dir, *overrides, **how):
    """The same to its end; its exit code and what it printed."""
    process = start(output_dir, *overrides, **how)
    try:
        printed, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    return process.returncode, printed


def folder(output_dir):
    return output_dir / "sweeps" / "s"


def records(output_dir):
    """Trial number -> its record, of those that have one."""
    paths = sorted((folder(output_dir) / "trials").glob("*/record.json"))
    return {int(path.parent.name): json.loads(path.read_text()) for path in paths}


def proposals(output_dir):
    """Trial number -> what was proposed."""
    paths = sorted((folder(output_dir) / "trials").glob("*/proposal.json"))
    found = [json.loads(path.read_text()) for path in paths]
    return {item["number"]: item["params"] for item in found}


def processes_of(output_dir):
    """Command lines and working directories of living processes that belong to a sweep."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            at = os.readlink(entry / "cwd")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and str(output_dir) in (command, at, *command.split("\0")):
            found.append((entry.name, command.replace("\0", " ")))
    return found


def make_plan(*overrides, kind=Plan):
    """What the command line's overrides ask for: a Plan, or a Comparison of methods."""
    register_resolvers()
    hydra_plugin.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        fixed = [item.input_line for item in parsed if not item.is_sweep_override()]
        config = compose("config", overrides=fixed, return_hydra_config=True)
        return kind(loader, config, list(overrides))


class EpochByEpoch:
    """A pool without processes: a run is the rows of its curve, one at every look.

    Args:
        run: directory -> what its metrics.jsonl will hold, and its record.
        slots: runs at once.
        stop_after: so many ended runs there is a Ctrl-C.
    """

    def __init__(self, run, slots=2, stop_after=None):
        self.run, self.slots, self.stop_after = run, slots, stop_after
        self.started, self.killed, self.ended = [], [], 0

    def submit(self, directory, action="main", processes=1):
        rows, record = self.run(directory) if action == "main" else ([], None)
        if record and not record.config:
            config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
            record = replace(record, config=config)
        self.started += [directory] if record else []
        return Scripted(directory, list(rows), record)

    def wait(self, handles, seconds):
        for handle in handles:
            handle.step()
        ended = [handle for handle in handles if handle.done]
        self.ended += len(ended)
        if self.stop_after is not None and self.ended > self.stop_after:
            raise KeyboardInterrupt
        return ended

    def kill(self, handles):
        self.killed += [handle.directory for handle in handles]


class Scripted:
    """A run in flight that trains nothing."""

    def __init__(self, directory, rows, record):
        self.directory, self.rows, self.record = directory, rows, record
        self.started, self.done = time.monotonic(), False

    def step(self):
        if self.rows:
            with (self.directory / "metrics.jsonl").open("a") as stream:
                stream.write(json.dumps(self.rows.pop(0)) + "\n")
            return
        if self.record:
            write_record(self.record, self.directory)
        self.done = True

    def end(self):
        return End("", failed=False) if self.done else None


def scripted(output_dir, run, *overrides, slots=2, stop_after=None):
    """A sweep in this process, of runs that train nothing; its report and its pool."""
    base = [f"output_dir={output_dir}", "sampler=random", "sweep.name=s", "tracking=disabled"]
    plan = make_plan(*base, *overrides)
    plan.directory.mkdir(parents=True, exist_ok=True)
    pool = EpochByEpoch(run, slots, stop_after)
    with open_study(plan) as study, suppress(KeyboardInterrupt):
        sweeper.Sweep(plan, study, pool).run()
    return load_sweep(plan.directory), pool
