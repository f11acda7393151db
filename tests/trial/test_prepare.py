"""A sweep's parts are tried out with what its workers will have."""

from pathlib import Path

import pytest
import torch
from tiny import Compose

from kd_research.configuration.config import save
from kd_research.records.record import CONFIG_NAME
from kd_research.trial import run as trial
from kd_research.trial.assembly import Parts


@pytest.mark.parametrize(
    ("overrides", "threads"),
    [
        (["sweep.workers=null"], 6),
        (["sweep.workers=3"], 3),
        (["sweep.workers=9"], 6),
        (["pool=launcher", "sweep.workers=3"], 1),
    ],
)
def test_the_teacher_is_judged_on_all_cores_that_the_workers_will_have(
    tiny: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    threads: int,
) -> None:
    seen = []

    class Judged(Parts):
        def __init__(self, *given: object):
            torch.set_num_threads(1)
            self.teacher = True  # type: ignore[assignment]

        def teacher_accuracy(self) -> float:
            seen.append(torch.get_num_threads())
            raise KeyError

    monkeypatch.setattr(trial, "Parts", Judged)
    monkeypatch.setattr(trial, "cores", lambda: 6)
    save(tiny(*overrides), tmp_path / CONFIG_NAME)
    try:
        with pytest.raises(KeyError):
            trial.prepare([str(tmp_path)])
    finally:
        torch.set_num_threads(1)
    assert seen == [threads]
