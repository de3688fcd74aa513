"""Models on disk: finding their folders, reading configurations and weights."""
