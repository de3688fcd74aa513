"""Observation of edits: previews, traces, sheets, charts, and the remaining time."""
