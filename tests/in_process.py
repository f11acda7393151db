"""A pool whose runs happen here and now, in the process of the test: no interpreter is started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_research.pools.local import End
from kd_research.trial import run as trial


@dataclass
class Done:
    directory: Path
    started: float
    code: int

    def end(self) -> End | None:
        return End(f"it ended with {self.code}", failed=self.code != 0)


class HerePool:
    """`pool._target_=in_process.HerePool`; raises KeyboardInterrupt once `stop_after` are run."""

    slots = 1
    stop_after: int | None = None
    num_runs = 0

    def __init__(self, **_: object):
        pass

    def submit(self, directory: Path, action: str = "main", processes: int = 1) -> Done:
        if action == "main":
            if HerePool.num_runs == HerePool.stop_after:
                raise KeyboardInterrupt
            HerePool.num_runs += 1
        return Done(directory, time.monotonic(), getattr(trial, action)([str(directory)]))

    def wait(self, handles: Sequence[Done], seconds: float) -> list[Done]:
        return list(handles)

    def kill(self, handles: Sequence[Done]) -> None:
        pass

    def close(self) -> None:
        pass
