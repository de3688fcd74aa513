"""Object removal: inpaint the mask and a rim around it.

A mask drawn along an object's edge misses the pixels just outside, in which the lens, scaling or compression has mixed
object and background. They would stay as a halo, and the fill would continue them into the hole.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from editkit.plugin import Section
from editkit_plugins.inpaint import AUTO, Grow, Inpaint


class Remove(Inpaint):
    """Remove what the mask marks (white), including its blurred rim.

    Works as `inpaint` with an enlarged mask; every pixel outside the enlarged mask is kept bit for bit.
    """

    name: ClassVar[str] = "remove"
    group: ClassVar[Section] = "repair"
    usage: ClassVar[tuple[str, ...]] = (
        "remove photo.png --mask mask.png",
        "remove photo.png --mask box:40%,40%,60%,60% --candidates 4",
        "remove photo.png --mask mask.png then sdedit --strength 0.2",
    )

    grow: Grow = Field("auto", description="Enlarge the mask by this many pixels first. " + AUTO)
