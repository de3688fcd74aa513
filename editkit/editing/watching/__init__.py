"""Seeing an edit while it runs and afterwards: traces, sheets, charts, the time left."""
