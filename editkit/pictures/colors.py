"""Parse colours."""

from __future__ import annotations

import re

from editkit.common.spec import did_you_mean
from editkit.errors import short


def rgb(color: str) -> tuple[int, int, int]:
    """Return the three bytes of `#rrggbb`, `#rgb` (the # is optional) or a CSS name such as white.

    Raises:
        ValueError: not a colour; the message suggests the nearest name.
    """
    from PIL import ImageColor

    text = color.strip().lower()
    if re.fullmatch(r"[0-9a-f]{6}|[0-9a-f]{3}", text):
        text = f"#{text}"
    if text not in ImageColor.colormap and not re.fullmatch(r"#([0-9a-f]{6}|[0-9a-f]{3})", text):
        hint = did_you_mean(text, ImageColor.colormap)
        raise ValueError(f"a colour is {short(color)}; write it as #rrggbb or as a name such as white{hint}")
    red, green, blue = ImageColor.getrgb(text)[:3]
    return red, green, blue
