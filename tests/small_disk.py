"""Small disks that can be filled: a mounted tmpfs, where that is allowed."""

import os
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(place, *options):
    """A tmpfs at `place`, which is made; skips where nothing may be mounted."""
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def fill(place):
    """Take all room that is left; the file that has it."""
    ballast = place / "ballast"
    size = 1 << 20
    with ballast.open("ab", buffering=0) as stream:
        while size:
            try:
                stream.write(os.urandom(size))
            except OSError:
                size //= 2
    return ballast


def fill_inodes(place):
    """Take all files that are left; the folder that has them."""
    ballast = place / "many"
    ballast.mkdir()
    number = 0
    while True:
        try:
            (ballast / str(number)).touch()
        except OSError:
            return ballast
        number += 1
