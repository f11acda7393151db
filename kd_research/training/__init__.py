"""The distillation step and one fit: the LightningModule, its callbacks, its continuation."""
