"""Distillation losses: one family a file; `objective.py` adds them up."""
