"""Models as plain `nn.Module`s from inputs to logits, and the capture of named layers."""

from kd_research.models.capture import Capture

__all__ = ["Capture"]
