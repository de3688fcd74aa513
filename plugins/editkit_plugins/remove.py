"""Removing an object: inpainting of what the mask marks and of the rim around it.

A mask drawn along an object's edge leaves what of it lies beyond: pixels that the lens, the scaling or the compression
mixed from object and background. They stay as a halo, and what fills the hole goes on with them.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from editkit.plugin import Section
from editkit_plugins.inpaint import AUTO, Grow, Inpaint


class Remove(Inpaint):
    """Remove what the mask marks (white), its blurred rim included.

    As `inpaint` with the mask enlarged; every pixel outside of that is kept bit for bit.
    """

    name: ClassVar[str] = "remove"
    group: ClassVar[Section] = "repair"
    usage: ClassVar[tuple[str, ...]] = (
        "remove photo.png --mask mask.png",
        "remove photo.png --mask box:40%,40%,60%,60% --candidates 4",
        "remove photo.png --mask mask.png then sdedit --strength 0.2",
    )

    grow: Grow = Field("auto", description="Enlarge the mask by this many pixels first. " + AUTO)
