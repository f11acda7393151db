"""The teacher's outputs, cached on disk and read back in the order of the batches."""
