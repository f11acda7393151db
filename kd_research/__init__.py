"""Knowledge distillation as an experiment: stated in YAML, swept, tracked and compared.

A reader starts at `run.py` (the entry), then `trial/run.py` (one run) and `training/distill.py`
(the step). Each folder is a room whose `__init__.py` says what lives there; a room imports from
the rooms below it alone (`tests/test_layers.py` has the floors).
"""
