"""Models as plain `nn.Module`s from inputs to logits, and the capture of named layers."""
