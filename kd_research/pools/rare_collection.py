"""Imported first by a program of ours: Python then looks for garbage every 50,000 new objects.

By default it does so every 700, and goes through all there is again and again while modules are
imported and configurations composed, which make much and leave little: a tenth of the time until
the first training step. A run, which has nets to forget, goes back to Python's own way.
"""

import gc

_DEFAULT = gc.get_threshold()
gc.set_threshold(50_000, 20, 20)


def end() -> None:
    """Look for garbage as Python does, in what comes from now on: what is imported is none."""
    gc.freeze()
    gc.set_threshold(*_DEFAULT)
