"""Editing: from a chain and a picture to the result."""

from __future__ import annotations

from editkit.common.moved import forward

__getattr__ = forward(__name__)  # the names it had when it was one module, for one release
