"""Imported first by the server that runs are forked from.

Ctrl-C goes to the whole group: it is for the sweeper. The server itself turns deaf to it when all
is imported, seconds later; before, it would show where in its imports it was.
"""

import signal

from kd_research.pools import rare_collection

_HANDLER = signal.signal(signal.SIGINT, signal.SIG_IGN)


def end() -> None:
    """In a fork, which is a run: signals and garbage as Python has them."""
    signal.signal(signal.SIGINT, _HANDLER)
    rare_collection.end()
