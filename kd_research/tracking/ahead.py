"""Imported by the server that a sweep's trials are forked from, so that none imports W&B itself.

W&B, what `wandb.init` and its tables import in their time, and Plotly's parts for a trial's figure
take two seconds of processor time: as long as a small student trains.
"""

import importlib
import os
from contextlib import suppress
from pathlib import Path

from kd_research.tracking.figures import confusion_figure
from kd_research.tracking.session import AHEAD, surroundings
from kd_research.tracking.temporary import import_wandb

IN_TIME = ("wandb.sdk.launch.inputs.internal", "pandas", "requests")  # imported at a first use

# What is wrong with it each trial says in a line, and goes on.
with suppress(Exception, SystemExit):
    mode, _, output_dir = os.environ.pop(AHEAD).partition(" ")
    with surroundings(mode, Path(output_dir)):
        import_wandb(Path(output_dir))
        for name in IN_TIME:
            importlib.import_module(name)
    confusion_figure([[1, 0], [0, 1]]).to_json()
