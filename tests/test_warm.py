"""Commands are forks of a process that has imported everything; else each takes seconds."""

import os
import sys
from pathlib import Path

import pytest
import warm


def test_what_a_library_sets_for_itself_makes_no_command_a_real_one():
    given = dict.fromkeys(warm.SET_BY_LIBRARIES, "TRUE")
    command = [sys.executable, "-m", "kd_research.report", "--help"]
    with warm.Command(command, env={**os.environ, **given}, stdout=-3) as process:
        assert process._ended is not None
        assert process.wait() == 0


@pytest.mark.skipif(warm.SESSION not in os.environ, reason="not a worker of make test")
def test_the_worker_itself_is_a_fork():
    assert str(warm.SERVER) in Path(f"/proc/{os.getppid()}/cmdline").read_text()
