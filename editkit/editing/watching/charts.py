"""Small charts for a trace: lines over moves, and bars. Drawn by Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from editkit.editing.watching.sheets import INK, PALE, PAPER, clip_text, font

COLOURS = ((31, 97, 168), (214, 96, 30), (42, 140, 74), (147, 76, 165), (120, 90, 60), (20, 150, 160))
UP = (200, 30, 30)
"""Colour of upward moves."""

LEFT, RIGHT, TOP, BOTTOM = 68, 16, 30, 34
Points = Sequence[tuple[float, float]]


def lines(
    title: str,
    series: Mapping[str, Points],
    x_label: str,
    *,
    red: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
    dividers: Sequence[tuple[float, str]] = (),
    size: tuple[int, int] = (860, 220),
) -> Image.Image:
    """Draw a line chart.

    Args:
        title: title of the chart.
        series: name -> points.
        x_label: label of the x axis.
        red: segments drawn in red on top.
        dividers: positions of dashed vertical lines, with a name to their right.
        size: (width, height) in pixels.
    """
    width, height = size
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    xs = [x for points in series.values() for x, _ in points] or [0.0]
    ys = [y for points in series.values() for _, y in points] or [0.0]
    x_range, y_range = _range(xs), _range(ys)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        u = (point[0] - x_range[0]) / (x_range[1] - x_range[0])
        v = (point[1] - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + u * (width - LEFT - RIGHT), height - BOTTOM - v * (height - TOP - BOTTOM)

    draw.text((8, 6), clip_text(title, width // 2, 14), fill=INK, font=font(14))
    for k in range(5):
        y = y_range[0] + (y_range[1] - y_range[0]) * k / 4
        draw.line((at((x_range[0], y)), at((x_range[1], y))), fill=(228, 230, 233))
        draw.text((LEFT - 8, at((0, y))[1]), f"{y:.4g}", fill=PALE, font=font(11), anchor="rm")
    for x in (x_range[0], x_range[1]):
        draw.text((at((x, 0))[0], height - BOTTOM + 6), f"{x:.4g}", fill=PALE, font=font(11), anchor="ma")
    draw.text(((LEFT + width - RIGHT) / 2, height - BOTTOM + 8), x_label, fill=PALE, font=font(11), anchor="ma")
    for x, name in dividers:
        a = at((x, 0))[0]
        for y in range(TOP, height - BOTTOM, 6):
            draw.line((a, y, a, y + 3), fill=(170, 173, 178))
        draw.text((a + 4, TOP), name, fill=PALE, font=font(11))
    for colour, points in zip(_colours(len(series)), series.values(), strict=True):
        _line(draw, [at(p) for p in points], colour)
    for start, end in red:
        draw.line((at(start), at(end)), fill=UP, width=2)
    _legend(draw, list(series), width)
    return page


def _line(draw: ImageDraw.ImageDraw, points: Points, colour: tuple[int, int, int]) -> None:
    if len(points) == 1:
        x, y = points[0]
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    else:
        draw.line(list(points), fill=colour, width=2)


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str], width: int) -> None:
    x = float(width - RIGHT)
    for colour, name in reversed(list(zip(_colours(len(names)), names, strict=True))):
        x -= font(12).getlength(name)
        draw.text((x, 8), name, fill=INK, font=font(12))
        draw.line((x - 22, 16, x - 6, 16), fill=colour, width=3)
        x -= 34


def _colours(count: int) -> list[tuple[int, int, int]]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if high == low:
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    return low, high


def bars(title: str, values: Mapping[str, float], unit: str, width: int = 860) -> Image.Image:
    """Draw a horizontal bar for each name, the longest first, with its value and share."""
    ordered = sorted(values.items(), key=lambda pair: -pair[1])
    row, left = 20, 190
    page = Image.new("RGB", (width, 34 + row * max(len(ordered), 1)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((8, 6), title, fill=INK, font=font(14))
    most, total = max([v for _, v in ordered] or [1.0]) or 1.0, sum(values.values()) or 1.0
    for k, (name, value) in enumerate(ordered):
        y = 30 + k * row
        draw.text((left - 10, y + row / 2), clip_text(name, left - 20, 12), fill=INK, font=font(12), anchor="rm")
        length = (width - left - 150) * value / most
        draw.rectangle((left, y + 3, left + max(length, 1), y + row - 4), fill=COLOURS[0])
        text = f"{value:.0f}" if value >= 100 else f"{value:.2g}"
        text = f"{text} {unit} · {value / total:.0%}"
        draw.text((left + length + 8, y + row / 2), text, fill=PALE, font=font(12), anchor="lm")
    return page
