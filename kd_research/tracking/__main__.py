"""`python -m kd_research.tracking sync DIR`: upload what was tracked offline, in order."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from kd_research.records.printing import print_safely
from kd_research.records.record import CONFIG_NAME, SWEEP_NAME, read_record
from kd_research.records.variables import set_variables
from kd_research.report.load import load_sweep
from kd_research.tracking.export import export_id
from kd_research.tracking.run import run_name, student_name, teacher_name
from kd_research.tracking.session import own_service, run_files, safe_id, stop_service
from kd_research.tracking.workspace import workspace

CHUNK = 50  # run folders a command


@dataclass(frozen=True)
class Run:
    """One tracked run: its W&B id and team and project, and the artifact that it was made from.

    Its stage says what must be uploaded before it: all of the earlier stages.
    """

    stage: int
    run_id: str
    output_dir: Path
    entity: str | None
    project: str
    uses: str | None = None

    def folder(self) -> Path | None:
        """Its latest offline folder; None where it was not tracked, or online."""
        files = run_files(self.output_dir, self.run_id)
        return files[-1].parent if files else None


def find_runs(directory: Path) -> list[Run]:
    """The runs tracked offline below a folder, what is used before its users."""
    runs = list(_trials(directory))
    if not runs:
        return []
    first = runs[0]
    names = dict.fromkeys(run.uses for run in runs if run.uses)
    teachers = [replace(first, stage=0, run_id=name, uses=None) for name in names]
    last = [
        replace(run, stage=2, run_id=export_id(run.run_id), uses=student_name(run.run_id))
        for run in runs
    ]
    if (directory / SWEEP_NAME).is_file():
        name = f"{load_sweep(directory).name}-sweep"
        last.append(replace(first, stage=2, run_id=name, uses=None))
    return [run for run in [*teachers, *runs, *last] if run.folder()]


def _trials(directory: Path) -> Iterator[Run]:
    for path in sorted(directory.rglob(CONFIG_NAME)):
        try:
            config: Any = OmegaConf.to_container(OmegaConf.load(path))  # another's: not resolved
            tracking = config.get("tracking")
        except Exception as error:  # YAML's own types, OmegaConf's, the system's
            print(f"{path} cannot be read ({' '.join(str(error).split())[:100]}); left out")
            continue
        if tracking is None:
            continue
        try:
            record = read_record(path.parent)
        except (FileNotFoundError, ValueError):
            teacher = None
        else:
            teacher = teacher_name(record)
        output_dir = Path(config["output_dir"])
        run_id = tracking.get("run_id") or run_name(path.parent, output_dir)
        entity, project = tracking.get("entity"), tracking["project"]
        yield Run(1, run_id, output_dir, entity, project, teacher)


def sync(directory: Path, dry_run: bool = False) -> int:
    """Upload the runs below `directory`, link weights to their teachers, save the workspace.

    Returns:
        0 if all of it was done, 1 if not; what was not is printed.
    """
    runs = find_runs(directory)
    if not runs:
        print(f"{directory}: no run below it was tracked offline; run it with tracking=offline")
        return 1
    commands = []
    for _, stage in groupby(runs, key=lambda run: run.stage):  # W&B mixes those of one command
        folders = [str(run.folder()) for run in stage]
        commands += [folders[start : start + CHUNK] for start in range(0, len(folders), CHUNK)]
    if dry_run:
        print("\n".join(shlex.join(["wandb", "sync", *command]) for command in commands))
        return 0
    with set_variables(own_service()):
        owner = "WANDB_SERVICE" not in os.environ
        try:
            return _upload(directory, commands) or _finish(directory, runs)
        finally:
            stop_service(owner)


def _upload(directory: Path, commands: list[list[str]]) -> int:
    """`wandb sync` of each list of folders, in order; 1 where one is not uploaded.

    Its logs go to `directory`/wandb, not where one stands, unless WANDB_DIR says otherwise.
    """
    import wandb

    if not wandb.login(prompt=False, verify=False):
        print("no W&B login: type `wandb login`, or set WANDB_API_KEY, then the same command again")
        return 1
    environment = {"WANDB_DIR": str(directory.resolve()), **os.environ}
    for command in commands:
        upload = [sys.executable, "-m", "wandb", "sync", *command]
        code = subprocess.run(upload, env=environment).returncode
        if code != 0:
            print(f"wandb sync ended with {code}; the same command again uploads what is left")
            return 1
    return 0


def _finish(directory: Path, runs: list[Run]) -> int:
    """What needs the server's knowledge of the runs: lineage and the workspace."""
    import wandb

    try:
        api = wandb.Api()
        entity = str(runs[0].entity or api.default_entity)
        link(api, entity, runs)
        if (directory / SWEEP_NAME).is_file():
            made = workspace(load_sweep(directory), entity, runs[0].project)
            made.save()
            print(f"workspace: {made.url}")
    except ModuleNotFoundError as error:
        print(f"no workspace was saved: {error}; install kd_research[workspaces]")
        return 1
    except Exception as error:  # the server's refusals have many types
        print(f"uploaded, but lineage or workspace failed: {error}")
        return 1
    return 0


def link(api: Any, entity: str, runs: list[Run]) -> None:
    """Say of each run which weights it was made from: offline, W&B cannot be told."""
    uploaded = {run.run_id for run in runs}
    for run in runs:
        if run.uses and (run.uses in uploaded or run.stage == 2):  # else its teacher has no run
            place = f"{entity}/{run.project}"
            origin = api.artifact(f"{place}/{run.uses}:latest")
            api.run(f"{place}/{safe_id(run.run_id)}").use_artifact(origin)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m kd_research.tracking")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("sync", help="upload what was tracked offline, in order")
    verb.add_argument("directory", type=Path, help="a sweep's folder, or a run's")
    verb.add_argument("--dry-run", action="store_true", help="print the wandb commands alone")
    given = parser.parse_args(arguments)
    if not given.directory.is_dir():
        print(f"there is no folder {given.directory}; give a sweep's, as outputs/sweeps/NAME")
        return 2
    return sync(given.directory, given.dry_run)


if __name__ == "__main__":
    print_safely()
    sys.exit(main())
