"""Pictures and masks: in memory, as tensors, in files."""
