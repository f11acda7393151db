"""One run, from a composed configuration to a record: `python -m kd_research.trial DIR`."""
