"""All that wants a GPU, on one, in nine minutes.

    python benchmarks/gpu.py --data DIR [--out DIR] [--only speed pair] [--minutes 9]
    python benchmarks/gpu.py --cpu          # every part in miniature, without one

DIR has the folders cifar100 and tinyshakespeare (Parquet); without it the images are synthetic and
the language part is left out. `benchmarks/gpu_carry.sh` says how to bring both to a machine without
a package registry.

Each part is a process of its own under its own limit: what hangs or dies costs its part alone.
Results are in OUT as they come: results.jsonl (a line a figure), table.md, log.txt. What was run on
a GPU, and what never was, stands in docs/how-to/gpus.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_meter import Meter

ROOT = Path(__file__).resolve().parents[1]
# name -> (seconds, the function's module), in the order of their worth
PARTS = {
    "correctness": (55, "gpu_checks"),
    "server": (60, "gpu_checks"),
    "ranks": (40, "gpu_checks"),
    "speed": (110, "gpu_speed"),
    "at_once": (46, "gpu_at_once"),
    "pair": (85, "gpu_whole"),
    "energy": (15, "gpu_whole"),
    "language": (129, "gpu_whole"),
}
VERSIONS = ("torch", "lightning", "hydra-core", "optuna", "numpy", "nvidia-ml-py", "zeus")


@dataclass(frozen=True)
class Bench:
    """What every part is given.

    Attributes:
        out: where results go; outputs of runs are in `outputs`, beside them.
        data: a folder with cifar100 and tinyshakespeare, or None.
        cpu: in miniature, without a GPU.
        part: the name.
        seconds: what is left of the part's limit when its function is called.
    """

    out: Path
    data: Path | None
    cpu: bool
    part: str
    seconds: float

    @property
    def device(self) -> str:
        return "cpu" if self.cpu else "cuda"

    @property
    def outputs(self) -> Path:
        """Of the runs: teachers, decoded data, cached outputs; shared by the parts."""
        return self.out.with_name(f"{self.out.name}_runs")

    def tell(self, what: str, value: Any, unit: str = "", **more: Any) -> None:
        """Write one figure: at once, so that a killed part leaves what it had.

        Args:
            what: of what it is.
            value: a number, a text, or None where it could not be had.
            unit: of the number.
            more: n, low, high, note; and `ok`, where it is right or wrong.
        """
        row = {"part": self.part, "what": what, "value": value, "unit": unit, **more}
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "results.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(shown(row), flush=True)

    def run(self, code: list[str], seconds: float, **environment: str) -> tuple[int, str]:
        """A command's exit code and what it printed; -9 where it had to be ended."""
        process = subprocess.Popen(
            code,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environ(self.cpu, **environment),
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            end(process)
            printed, _ = process.communicate()
            return -signal.SIGKILL, printed
        return process.returncode, printed


def environ(cpu: bool, **more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if cpu else {}
    return {
        "OMP_NUM_THREADS": "1" if cpu else "4",
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "WANDB_MODE": "disabled",
        **hidden,
        **more,
    }


def end(process: subprocess.Popen[Any]) -> None:
    """The process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def shown(row: dict[str, Any]) -> str:
    value = row["value"]
    text = f"{value:,.4g}" if isinstance(value, float) else f"{value}"
    if row.get("low") is not None:
        text += f" ({row['low']:,.4g} to {row['high']:,.4g}, n={row['n']})"
    mark = {True: "ok", False: "WRONG"}.get(row.get("ok"), "")
    return (
        f"| {row['part']} | {row['what']} | {text} {row['unit']} | {mark} | {row.get('note', '')} |"
    )


def write_table(out: Path) -> list[str]:
    """table.md anew from results.jsonl; its lines."""
    path = out / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = ["| part | what | value | | note |", "|---|---|---|---|---|", *map(shown, rows)]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    return lines


def machine(bench: Bench) -> None:
    """The first rows: on what, with which versions; this process starts no CUDA."""
    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found |= Meter(not bench.cpu).describe()
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    try:
        found["commit"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        found["commit"] = None
    bench.tell("machine", ", ".join(f"{key} {value}" for key, value in found.items()))


def run_part(bench: Bench) -> None:
    """One part in a process of its own, to its end or its limit."""
    ends = time.time() + bench.seconds
    command = [sys.executable, __file__, "--part", bench.part, "--ends", str(ends)]
    command += ["--out", str(bench.out), *(["--cpu"] if bench.cpu else [])]
    command += ["--data", str(bench.data)] if bench.data else []
    started = time.monotonic()
    log_path = bench.out / "log.txt"
    with log_path.open("ab") as log:
        log.write(f"\n=== {bench.part}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environ(bench.cpu), start_new_session=True
        )
        try:
            process.wait(timeout=bench.seconds)
            note = "" if process.returncode == 0 else f"exit code {process.returncode}, see log.txt"
        except subprocess.TimeoutExpired:
            note = f"ended at its limit of {bench.seconds:.0f} s"
        finally:
            end(process)  # and what it left behind
            process.wait()
    if note.startswith("exit"):
        last = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
        note += f": {last[-1][:200]}"
    taken = time.monotonic() - started
    bench.tell("the part itself", round(taken, 1), "s", ok=not note, note=note)


def here(bench: Bench) -> None:
    """One part, in this process."""
    sys.path.insert(0, str(ROOT))
    module = importlib.import_module(PARTS[bench.part][1])
    getattr(module, bench.part)(bench)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu")
    parser.add_argument("--cpu", action="store_true", help="in miniature, without a GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--limit", type=float, help="seconds of each part, in place of its own")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    out, data = given.out.resolve(), given.data and given.data.resolve()
    if given.part:
        here(Bench(out, data, given.cpu, given.part, given.ends - time.time()))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "log.txt", "table.md"):
        (out / name).unlink(missing_ok=True)
    deadline = time.monotonic() + 60 * given.minutes
    machine(Bench(out, data, given.cpu, "machine", 0))
    for name in given.only:
        left = deadline - time.monotonic()
        bench = Bench(out, data, given.cpu, name, min(given.limit or PARTS[name][0], left))
        if left < 5:
            bench.tell("the part itself", None, ok=False, note="no time was left for it")
            continue
        run_part(bench)
        write_table(out)
    print("\n" + "\n".join(write_table(out)))
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return int(any(row.get("ok") is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
