"""`python -m gpu_miniature here|apart ...`: benchmarks/gpu.py, its parts here or forked.

Most of a miniature is the start of Python, torch and Lightning: the commands that the parts start
are forks of this process, which is a fork of a warm one itself.
"""

import atexit
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import gpu
import gpu_checks
import warm
import warm_server


class Ourselves(warm.Server):
    """A fork of this process that forks the commands."""

    def __init__(self):
        self.owner, self.environment = os.getpid(), warm.start_variables(os.environ)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind("")
            listener.listen()
            self.pid = os.fork()
            if self.pid == 0:
                self.socket.close()
                warm_server.serve(listener)
                os._exit(0)
            self.socket.connect(listener.getsockname())
        atexit.register(self.stop)

    def stop(self):
        if self.owner == os.getpid():
            self.socket.close()
            os.waitpid(self.pid, 0)


def popen(command, env, **how):
    """As `subprocess.Popen`, forked; PYTHONUNBUFFERED comes too late for a fork."""
    if command[1] == gpu.__file__:  # a part
        command = [command[0], "-m", "gpu", *command[2:]]
    env = {name: value for name, value in env.items() if name != "PYTHONUNBUFFERED"}
    return warm.Command(command, env=env, **how)


if __name__ == "__main__":
    os.environ.pop("PYTHONUNBUFFERED", None)
    warm.Server.started[sys.executable] = Ourselves()
    forked = SimpleNamespace(**{**vars(subprocess), "Popen": popen})
    gpu.subprocess = gpu_checks.subprocess = forked
    if sys.argv.pop(1) == "here":
        gpu.run_part = gpu.here
    sys.exit(gpu.main())
