"""Knowledge distillation as an experiment: stated in YAML, swept, tracked and compared.

A reader starts at `run.py` (the entry), then `trial.py` (one run) and `distill.py` (the step).
"""
