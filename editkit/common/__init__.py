"""Shared basics: notices to the user, specs, entry points, devices, moved names."""
