"""Batches: edit whole folders."""

from __future__ import annotations

from editkit.common.moved import forward

__getattr__ = forward(__name__)  # the names it had when it was one module, for one release
