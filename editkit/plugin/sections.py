"""The headings under which the general help lists plugins."""

from __future__ import annotations

from typing import Literal

Section = Literal["repair", "grow", "restore", "steer", "advanced", "other"]
"""The headings of the general help, in its order."""
