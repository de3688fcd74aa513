"""Models on disk: find their folders, read configurations and weights."""
