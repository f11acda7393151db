"""What is said into a file must stop nothing, and is no part of what a process prints."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from small_disk import fill, fill_inodes, small_disk

from kd_research.training.spoken import log, spoken_into


def test_a_disk_that_is_full_meanwhile_stops_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as place:
        with spoken_into(place / "spoken.txt"):
            log.info("first")
            fill(place)
            for _ in range(100):  # the end of a page has room
                log.info("x" * 100)
        assert (place / "spoken.txt").read_text().startswith("first\n")


@pytest.mark.parametrize("filled", [fill, fill_inodes])
def test_a_disk_that_was_full_before_stops_nothing(filled, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with small_disk(tmp_path / "disk", "size=1m,nr_inodes=20") as place:
        filled(place)
        path, handlers, went_on = place / "spoken.txt", [*log.handlers], False
        with spoken_into(path):
            log.info("first")
            went_on = True
        assert went_on
        assert not path.exists() or not path.read_text(), "the disk was full indeed"
        assert log.handlers == handlers


def test_a_folder_that_was_removed_stops_nothing(tmp_path: Path) -> None:
    with spoken_into(tmp_path / "gone" / "spoken.txt"):
        log.info("first")
    assert not (tmp_path / "gone").exists()


def test_a_librarys_handlers_hear_nothing_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = log.propagate
    caplog.set_level(logging.INFO)
    with spoken_into(tmp_path / "spoken.txt"):
        log.info("first")
    assert (tmp_path / "spoken.txt").read_text() == "first\n"
    assert not caplog.records
    assert log.propagate == before
