"""The command line of the export: `python -m kd_research.export RUN [RUN ...]`."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from kd_research.configuration import config as configs
from kd_research.configuration.config import ConfigError, refuse_foreign
from kd_research.configuration.ranks import be_one_process
from kd_research.configuration.trust import FLAG, give
from kd_research.export import Export, executorch_form, export_run
from kd_research.records.printable import printable
from kd_research.records.printing import print_safely
from kd_research.records.record import CONFIG_NAME
from kd_research.tracking import track_export
from kd_research.trial.run import quiet

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def show(found: Export) -> None:
    """Print the forms side by side."""
    table = Table(title=str(found.directory / "export"), title_justify="left")
    for name in ("form", "bytes", "val", "test", "latency ms", "p95 ms", "max difference"):
        table.add_column(name, justify="left" if name == "form" else "right")
    for name, form in found.forms.items():
        table.add_row(
            name,
            f"{form.bytes:,}",
            f"{100 * form.accuracies['val']:.2f}%",
            f"{100 * form.accuracies['test']:.2f}%",
            f"{form.latency_ms:.4g}",
            f"{form.latency_p95_ms:.4g}",
            f"{form.max_difference:.3g}",
        )
    Console().print(table)


def track(found: Export) -> None:
    """Show the export where the run was shown: its files, made from the run's student."""
    config: Any = OmegaConf.to_container(configs.load(found.directory / CONFIG_NAME), resolve=True)
    files = [path for path in sorted((found.directory / "export").iterdir()) if path.is_file()]
    values = found.as_dict()
    track_export(config, found.directory, files, {**values["metrics"], **values["costs"]})


def main(arguments: list[str] | None = None) -> int:
    """Export the runs named on the command line; 1 where one failed, 2 on wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m kd_research.export",
        description="Students as ONNX (float32 and int8), checked against their modules.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or trials of a sweep")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest difference of a float32 form's logits from the module's (default 1e-4)",
    )
    parser.add_argument(
        "--executorch", action="store_true", help="also a program for phones (.pte)"
    )
    parser.add_argument(FLAG, action="store_true", help="run whatever code the folders name")
    given = parser.parse_args(arguments)
    if given.trust:
        give()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"{', '.join(missing)} not installed; pip install 'kd_research[export]'")
        return 2
    if given.executorch and not executorch_form.is_installed():
        print("ExecuTorch is not installed; pip install 'kd_research[executorch]'", file=sys.stderr)
        return 2
    try:
        be_one_process()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    quiet()
    code = 0
    folders = [
        folder
        for run in given.runs
        for folder in (sorted(run.glob("seed-*")) if not (run / CONFIG_NAME).exists() else [run])
        or [run]
    ]
    for folder in folders:
        try:
            refuse_foreign(folder)
            found = export_run(folder.resolve(), given.tolerance, given.executorch)
        except (ConfigError, ValueError) as error:
            print(printable(f"{folder}: {error}"), file=sys.stderr)
            code = 1
            continue
        show(found)
        track(found)
        for problem in found.problems:
            print(problem, file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    print_safely()
    sys.exit(main())
