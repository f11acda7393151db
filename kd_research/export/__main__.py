"""The command line of the export: `python -m kd_research.export RUN [RUN ...]`."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from kd_research.configuration.config import ConfigError, refuse_foreign
from kd_research.configuration.ranks import be_one_process
from kd_research.configuration.trust import FLAG, give
from kd_research.export import Export, executorch_form, export_run, snippet
from kd_research.records.printable import printable
from kd_research.records.printing import print_safely
from kd_research.records.record import CONFIG_NAME
from kd_research.report.terminal import print_table
from kd_research.trial.run import quiet

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def show(found: Export) -> None:
    """Print the forms side by side."""
    header = [
        "form",
        "bytes",
        "val",
        "test",
        "latency ms",
        "p95 ms",
        "peak memory",
        "max difference",
    ]
    rows = [
        [
            name,
            f"{form.bytes:,}",
            f"{100 * form.accuracies['val']:.2f}%",
            f"{100 * form.accuracies['test']:.2f}%",
            f"{form.latency_ms:.4g}",
            f"{form.latency_p95_ms:.4g}",
            "-" if form.peak_memory_bytes is None else f"{form.peak_memory_bytes:,}",
            f"{form.max_difference:.3g}",
        ]
        for name, form in found.forms.items()
    ]
    print_table(
        str(found.directory / "export"),
        header,
        rows,
        first_out=["p95 ms", "peak memory", "latency ms"],
    )


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
    parser.add_argument(
        "--normalised",
        action="store_true",
        help="the files take prepared inputs; without it raw pixels, normalised in their graph",
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
            found = export_run(
                folder.resolve(), given.tolerance, given.executorch, given.normalised
            )
        except (ConfigError, ValueError) as error:
            print(printable(f"{folder}: {error}"), file=sys.stderr)
            code = 1
            continue
        show(found)
        for line in found.text.lines if found.text else ():
            print(printable(line))
        print(f"runs with onnxruntime and numpy alone:\n\n{snippet(found)}\n")
        for problem in found.problems:
            print(problem, file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    print_safely()
    sys.exit(main())
