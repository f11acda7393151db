"""A transfer set that takes hours: whoever is cut off while making it goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_transfer import teacher
from tiny import Compose, plain

from kd_research.records.outside import OutsideError
from kd_research.transfer import kept as keeping
from kd_research.transfer.generator import Generated
from kd_research.transfer.impressions import ClassImpressions
from kd_research.transfer.kept import Kept
from kd_research.trial.assembly import Parts

MAKERS = [
    pytest.param(
        ClassImpressions(num_examples=23, batch_size=5, iterations=2, variants=1),
        "_optimised",
        id="class_impressions",
    ),
    pytest.param(
        Generated(num_examples=9, batch_size=4, steps=5, width=4, noise=3), "loss", id="generator"
    ),
]


class Stopped(Exception):
    """In place of a signal."""


class Watched:
    """A method that counts its calls, and is cut off at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: type, name: str, stop_at: int):
        self.method, self.calls, self.stop_at = getattr(kind, name), 0, stop_at
        patch.setattr(kind, name, lambda *given: self(*given))

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls == self.stop_at:
            raise Stopped
        return self.method(*given)


@pytest.mark.parametrize("damaged", ["", "bytes", "of another set", "of another program"])
@pytest.mark.parametrize(("make", "method"), MAKERS)
def test_what_was_made_before_is_not_made_again(
    make: Any, method: str, damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(teacher(), [1, 8, 8], 10, 3)
    monkeypatch.setattr(keeping, "SECONDS", 0.0)
    with monkeypatch.context() as patch:
        watched = Watched(patch, type(make), method, stop_at=4)
        with pytest.raises(Stopped):
            make(teacher(), [1, 8, 8], 10, 3, Kept(tmp_path))
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        third = len(content) // 3
        if damaged == "bytes":
            path.write_bytes(content[:third] + bytes(third) + content[2 * third :])
        elif damaged == "of another set":
            torch.save({**torch.load(path), "of": "another.parts"}, path)
        elif damaged:
            torch.save({"foo": 1}, path)
    with monkeypatch.context() as patch:
        watched = Watched(patch, type(make), method, stop_at=99)
        again = make(teacher(), [1, 8, 8], 10, 3, Kept(tmp_path))
    assert watched.calls == (5 if damaged else 2)
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def test_a_set_that_takes_seconds_writes_nothing_else(tmp_path: Path) -> None:
    make: Any = MAKERS[0].values[0]
    make(teacher(), [1, 8, 8], 10, 3, Kept(tmp_path))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("make", "_method"), MAKERS)
def test_a_removed_folder_is_told_and_not_made_anew(
    make: Any, _method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SECONDS", 0.0)
    place = tmp_path / "transfer"
    with pytest.raises(OutsideError, match="transfer was removed"):
        make(teacher(), [1, 8, 8], 10, 3, Kept(place / "key.parts"))
    assert not place.exists()


def test_a_run_goes_on_and_leaves_no_parts(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SECONDS", 0.0)
    config = plain(
        tiny(
            *(f"output_dir={tmp_path}", "transfer=class_impressions", "transfer.variants=0"),
            *("transfer.num_examples=12", "transfer.batch_size=3", "transfer.iterations=1"),
        )
    )
    with monkeypatch.context() as patch:
        watched = Watched(patch, ClassImpressions, "_optimised", stop_at=3)
        with pytest.raises(Stopped):
            Parts(config)
    parts = next(tmp_path.glob("transfer/*.parts"))
    assert len([*parts.iterdir()]) == 2
    with monkeypatch.context() as patch:
        watched = Watched(patch, ClassImpressions, "_optimised", stop_at=99)
        assert len(Parts(config).data.train) == 12
    assert watched.calls == 2
    assert not parts.exists()
