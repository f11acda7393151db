"""A memory-mapped file of checked rows, which any number of processes read and fill.

A row that was never written, half-written by a process that was killed, or damaged since fails its
checksum, which is keyed by the file and the row's place: it is missing, and can be written again.
Rows are whole or missing without any lock.

Shapes: N rows, W 64-bit words of a row, the last of which is the checksum; B rows asked for.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from kd_research.data.augment import hash_bits
from kd_research.records.locks import alone

log = logging.getLogger(__name__)
CHUNK_WORDS = 1 << 21  # of a file that is checked whole, at a time: 16 MiB


class RowFile:
    """The rows at `path`, made as zeros if they are not there.

    Args:
        path: of the file.
        num_rows: N.
        words: W, the checksum included.
        key: what the checksums are keyed by: a file of another key has no valid row.

    Raises:
        OSError: there is no room for the file.
    """

    def __init__(self, path: Path, num_rows: int, words: int, key: int):
        self.path, self._key = path, key
        _create(path, num_rows * words * 8)
        mapped = torch.from_file(str(path), shared=True, size=num_rows * words, dtype=torch.int64)
        self.rows = mapped.view(num_rows, words)
        self._weights = hash_bits(0, 0, torch.arange(1), words - 1)[0] | 1

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W) rows, copied; (B,) bool, whether each is whole.

        Args:
            index: (B,) int64.
        """
        rows = self.rows.index_select(0, index)
        return rows, rows[:, -1] == self._checksums(rows, index)

    def write(self, index: Tensor, rows: Tensor) -> None:
        """Write (B, W) rows, whose last word is set here."""
        rows[:, -1] = self._checksums(rows, index)
        self.rows.index_copy_(0, index, rows)

    def missing(self) -> Tensor:
        """(M,) int64: the rows that are not there, or damaged."""
        num_rows, words = self.rows.shape
        bad = torch.empty(num_rows, dtype=torch.bool)
        size = max(1, CHUNK_WORDS // words)
        for start in range(0, num_rows, size):
            rows = self.rows[start : start + size]
            index = torch.arange(start, start + len(rows))
            bad[index] = rows[:, -1] != self._checksums(rows, index)
        damaged = int((bad & (self.rows[:, -1] != 0)).sum())
        if damaged:
            log.warning(
                "%d rows in %s are not whole (another process is writing them, or they are "
                "damaged) and are computed again",
                damaged,
                self.path,
            )
        return bad.nonzero().squeeze(1)

    def _checksums(self, rows: Tensor, index: Tensor) -> Tensor:
        """(B,) int64; every word has an odd weight, so that no change of one word goes unseen."""
        salt = hash_bits(self._key, 0, index, 1)[:, 0] | 1
        return (rows[:, :-1] * self._weights).sum(dim=1) + salt


def _create(path: Path, size: int) -> None:
    """A file of zeros whose blocks are really there, if it is not; whoever is first makes it."""
    if path.exists() and path.stat().st_size == size:
        return
    with alone(path.with_suffix(".lock"), f"making {path.name}"):
        if path.exists():
            if path.stat().st_size == size:  # another process was first
                return
            log.warning("%s has a wrong size and is made anew", path)
        # One name, so that who is killed in here leaves no second file; the umask takes its bits.
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(descriptor, 0, size)
            os.ftruncate(descriptor, size)
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                error.errno,
                f"no room for {size / 1e6:.0f} MB of cached teacher outputs in {path.parent} "
                f"({free / 1e6:.0f} MB free): {error.strerror}; free some space, or type "
                "output_dir=/another/disk or soft_targets.cache=false",
            ) from error
        finally:
            os.close(descriptor)
