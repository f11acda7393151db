"""Data sets as tensors in memory, cut into train, validation and test, and served in batches."""
