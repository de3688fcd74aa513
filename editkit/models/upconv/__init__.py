"""The embedded network that doubles pictures."""
