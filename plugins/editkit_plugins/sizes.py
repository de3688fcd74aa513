"""Parsing of sizes, factors and borders: 1920x1080, 4x, 10%, 16:9."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from editkit.plugin import Metavar

LARGEST = 20_000
"""The longest side of a canvas."""


def sides(size: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT into width and height in pixels.

    Raises:
        ValueError: the text has another form, or a side is out of range.
    """
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    both = (int(found[1]), int(found[2])) if found else (0, 0)
    if min(both) < 1 or max(both) > LARGEST:
        raise ValueError(f"size is {size!r}; write width x height in pixels, each 1 to {LARGEST}, such as 1024x768")
    return both


def ratio(aspect: str) -> tuple[float, float]:
    """Parse an aspect ratio, 16:9, 16/9 or 1.777, into relative width and height.

    Raises:
        ValueError: the text has another form, or the ratio exceeds 100 to 1.
    """
    wide, sign, high = aspect.replace("/", ":").partition(":")
    try:
        both = float(wide), float(high) if sign else 1.0
        if not (min(both) > 0.0 and max(both) / min(both) <= 100.0):
            raise ValueError
    except ValueError:
        raise ValueError(f"aspect is {aspect!r}; write width:height, such as 16:9, or a number like 1.777") from None
    return both


def _times(value: object) -> object:
    return value.strip().removesuffix("x") if isinstance(value, str) else value


def _border(value: object) -> object:
    text = str(value).strip()
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if share and float(share[1]) <= 1000.0:
        return text
    if re.fullmatch(r"\d{1,6}", text) and int(text) <= LARGEST:
        return int(text)
    raise ValueError(f"is {value!r}; write pixels, 0 to {LARGEST}, or per cent of the picture, such as 10%")


def pixels(border: int | str, extent: int) -> int:
    """Convert a border to pixels; per cent refer to the picture's `extent` in pixels."""
    return border if isinstance(border, int) else round(float(border[:-1]) * extent / 100.0)


def _sides(size: str) -> str:
    sides(size)
    return size


Size = Annotated[str, AfterValidator(_sides)]
"""Width x height in pixels."""

Times = Annotated[float, BeforeValidator(_times), Metavar("X", path=False)]
"""A factor: 4, or 4x."""

Border = Annotated[int | str, BeforeValidator(_border), Metavar("PIXELS|%", path=False)]
"""Pixels, or per cent of the picture's width or height."""
