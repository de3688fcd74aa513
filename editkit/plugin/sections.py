"""The headings under which plugins stand in the general help."""

from __future__ import annotations

from typing import Literal

Section = Literal["repair", "grow", "restore", "steer", "advanced", "other"]
"""The headings of the general help, in its order."""
