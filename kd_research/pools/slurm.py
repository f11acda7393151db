"""Runs as Slurm jobs: the same folder by the same command, `python -m kd_research.trial DIR`.

The folders must be on a disk that all machines see.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_research.pools.local import End
from kd_research.records.record import LOG_NAME, read_text, write_text

JOB_NAME = "slurm-job"  # in a run's folder: the id of its job, for a sweeper that comes later
POLL_SECONDS = 2.0
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
ENDED |= {"OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
OWN_FAULT = {"COMPLETED", "TIMEOUT", "DEADLINE"}  # a run that fails by itself leaves a record


@dataclass
class SlurmHandle:
    """One Slurm job."""

    directory: Path
    job: str
    started: float
    state: str = "PENDING"

    def end(self) -> End | None:
        """How the job ended, by the controller alone; no accounting is needed."""
        if self.state not in ENDED and self.state != "GONE":
            return None
        reason = f"its Slurm job {self.job} ended as {self.state}"
        failed = self.state != "COMPLETED"
        return End(reason, outside=self.state not in OWN_FAULT, failed=failed)


class SlurmPool:
    """Runs as Slurm jobs, as many at once as `slots`.

    Args:
        slots: jobs at once, waiting ones among them.
        devices_per_trial: tasks of one job.
        options: further ones of sbatch, as {partition: gpu, gpus-per-task: 1, time: 60}.
        program: the module whose command line is a run.
    """

    def __init__(
        self,
        slots: int | None = None,
        devices_per_trial: int = 1,
        options: dict[str, str | int] | None = None,
        program: str = "kd_research.trial.run",
    ):
        self.slots = slots or 16
        self.options = {key: value for key, value in (options or {}).items() if value is not None}
        self.program, self.devices_per_trial = program, devices_per_trial

    def submit(self, directory: Path, action: str = "main", processes: int = 1) -> SlurmHandle:
        """A job for the folder; the one that a dead sweeper left there, if it still runs."""
        path = directory / JOB_NAME
        if path.exists() and action == "main":
            left = SlurmHandle(directory, read_text(path).strip(), time.monotonic())
            self._ask([left])
            if left.end() is None:
                return left
        run = command(self.program, action, directory)
        # Without --kill-on-bad-exit the other ranks of a failed one wait for ever.
        step = shlex.join(["srun", "--kill-on-bad-exit=1", *run])
        log = str(directory / LOG_NAME)
        submit = ["sbatch", "--parsable", f"--job-name=kd-{directory.name}", f"--output={log}"]
        submit += ["--open-mode=append", "--no-requeue"]
        submit += ["--nodes=1", f"--ntasks-per-node={processes}"]  # Lightning refuses --ntasks
        submit += [f"--{key}={value}" for key, value in self.options.items()]
        job = _call([*submit, f"--wrap={step}"]).strip().split(";")[0]
        write_text(path, job + "\n")
        return SlurmHandle(directory, job, time.monotonic())

    def wait(self, handles: Sequence[SlurmHandle], seconds: float) -> list[SlurmHandle]:
        """The jobs that have ended; asks Slurm once for all, every two seconds."""
        time.sleep(max(seconds, POLL_SECONDS))
        self._ask(handles)
        return [handle for handle in handles if handle.end() is not None]

    def _ask(self, handles: Sequence[SlurmHandle]) -> None:
        jobs = ",".join(handle.job for handle in handles)
        try:
            printed = _call(["squeue", "--noheader", "--states=all", "--format=%i %T", "-j", jobs])
        except subprocess.CalledProcessError as error:
            if "Invalid job id" not in error.stderr:
                return  # the controller does not answer: nothing is known, ask again
            printed = ""
        states = dict(line.split() for line in printed.splitlines())
        for handle in handles:
            handle.state = states.get(handle.job, "GONE")  # ended minutes ago

    def kill(self, handles: Sequence[SlurmHandle]) -> None:
        """Cancel the jobs."""
        if handles:
            subprocess.run(["scancel", *(handle.job for handle in handles)], check=False)

    def close(self) -> None:
        """Nothing: there is no more than the jobs."""


def command(program: str, action: str, directory: Path) -> list[str]:
    """The command line of a run in a process that nothing has prepared."""
    call = f"import sys, {program} as program; sys.exit(program.{action}(sys.argv[1:]))"
    how = ["-m", program] if action == "main" else ["-c", call]
    return [sys.executable, *how, str(directory)]


def _call(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=True, timeout=120
    )
    return done.stdout
