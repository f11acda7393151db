"""What is to be killed runs in a process of its own."""

import os
from collections.abc import Callable


def in_fork(action: Callable[[], object]) -> int:
    """Run it in a fork of this process; what that ended with."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
