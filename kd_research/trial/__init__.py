"""One run, from a composed configuration to a record: `python -m kd_research.trial DIR`."""

from kd_research.trial.lean_imports import leave_out

leave_out()
