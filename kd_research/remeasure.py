"""Measures the costs of finished runs again: `python -m kd_research.remeasure RUN ...`.

Rebuilds each student from its config.yaml and weights.pt and replaces what its record says of
costs and of how they were measured; metrics are left alone. It is for a quiet machine, after a
sweep whose parallel trials disturbed each other's latencies; what it finds is also what later runs
of the same architectures take. What the sweep's study was told,
and so what its sampler learned, stays as it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

import kd_research.trial  # noqa: F401  # before Lightning, so that its imports stay few
from kd_research.configuration import config as configs
from kd_research.configuration.config import ConfigError, refuse_foreign
from kd_research.configuration.ranks import be_one_process
from kd_research.configuration.trust import FLAG, give
from kd_research.evaluation.costs import costs_of_pair, measuring
from kd_research.records.printable import printable
from kd_research.records.printing import print_safely
from kd_research.records.record import CONFIG_NAME, RunRecord, read_record, write_record
from kd_research.teacher.checkpoint import WEIGHTS_NAME, load_weights
from kd_research.trial.assembly import Parts
from kd_research.trial.run import quiet


def remeasure(directory: Path, since: float | None = None) -> RunRecord:
    """Measure the run in `directory` again and write its record.

    Args:
        directory: the run's.
        since: what was measured after this, of another run of the same architecture, is taken;
            seconds since 1970. None: nothing is.

    Raises:
        FileNotFoundError: it has no record.
        ValueError: it did not complete, or its weights do not fit its configuration.
        ConfigError: its configuration cannot be built any more.
    """
    record = read_record(directory)
    if record.status != "completed":
        raise ValueError(f"{directory} is {record.status}: only completed runs have a student")
    config: Any = OmegaConf.to_container(configs.load(directory / CONFIG_NAME), resolve=True)
    parts = Parts(config)
    load_weights(parts.student, directory / WEIGHTS_NAME)
    use_gpu = torch.cuda.is_available() and config["trainer"]["accelerator"] != "cpu"
    device = torch.device("cuda" if use_gpu else "cpu")
    teacher = parts.teacher.module.to(device) if parts.teacher else None
    parts.student.to(device)
    with measuring():
        shared = parts.shared_costs(device, time.time() if since is None else since)
        costs, how = costs_of_pair(parts.student, teacher, shared)
    before = record.provenance.get("measurement") or {}  # how a text was read stays true
    provenance = {**record.provenance, "measurement": {**before, **how}}
    record = dataclasses.replace(record, costs={**record.costs, **costs}, provenance=provenance)
    write_record(record, directory)
    return record


def main(arguments: list[str] | None = None) -> int:
    """Measure the runs named on the command line; 1 where one of them could not be."""
    parser = argparse.ArgumentParser(
        prog="python -m kd_research.remeasure",
        description="Measure the costs of finished runs again, one after the other.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders: record, config, weights")
    parser.add_argument(FLAG, action="store_true", help="run whatever code the folders name")
    given = parser.parse_args(arguments)
    if given.trust:
        give()
    try:
        be_one_process()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    quiet()
    code, since = 0, time.time()
    for directory in given.runs:
        try:
            refuse_foreign(directory)
            record = remeasure(directory.resolve(), since)
        except (ConfigError, ValueError, FileNotFoundError) as error:
            print(printable(f"{directory}: {error}"), file=sys.stderr)
            code = 1
        else:
            print(f"{directory}: {record.costs['latency_ms']:.4g} ms", flush=True)
    return code


if __name__ == "__main__":
    print_safely()
    sys.exit(main())
