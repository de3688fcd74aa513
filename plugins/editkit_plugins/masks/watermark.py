"""`watermark:example.png`: a known mark, given as a picture, wherever it occurs in a photograph.

The example shows the mark alone, on a transparent background or on a single colour (that of its corners). Matching
compares edge directions and limits edge strength, so that the photograph's own edges do not dominate. Scales from a
half to twice the example's are tried. All matches nearly as good as the best one are taken. Marks in rows and columns
form a lattice (`lattice.py`): at its empty places a weaker match is enough, and a place without one is named.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from editkit.common.notify import Notify, silent
from editkit.pictures.picture import Picture
from editkit.pictures.raster import largest
from editkit.pictures.shapes import Mask, ShapeError, TellingShape, as_mask, brightness
from editkit_plugins.masks.lattice import Place, empty_places

Grey = NDArray[np.float32]

SIDE = 1024
"""Larger photographs are searched at this size."""

SCALES = tuple(2.0 ** (k / 8) for k in range(-8, 9))
FINER = tuple(2.0 ** (k / 200) for k in range(-14, 15))
"""Scales tried relative to the example, and then relative to the best of these."""

BOUND = 12.0
"""Edges much stronger than this, in levels of 255, all count the same."""

LEAST, ABOVE, NEARLY = 0.12, 13.0, 0.38
"""Least correlation of a match; the same in standard deviations over all positions; and the least correlation of
further matches, relative to the best.

Without the mark the best position was 8 to 10 standard deviations above, with it 17 to 50 (benchmarks/masks.py)."""

FAINT, ROOM = 8.0, 3
"""Least correlation at an empty place of the lattice, in standard deviations, and its distance in pixels at most."""

OPAQUE = 0.08
"""Pixels of the example with less opacity are not part of the mark."""


def watermark(picture: Picture, example: Picture, notify: Notify = silent) -> Mask:
    """Mark where the mark of `example` lies: (H, W) of 0 and 1, all 0 if nothing matches.

    `notify` is told how many marks were found, and where one more is expected.

    Raises:
        ShapeError: the example shows no mark, or is larger than the photograph at every scale.
    """
    cover = _template_coverage(example)
    shrunk = min(1.0, SIDE / max(picture.size))
    grey = _resize(np.asarray(brightness(picture) * np.float32(255.0), dtype=np.float32), shrunk)
    wanted = _edges(grey)
    tried = [_match(wanted, cover, shrunk * scale) for scale in SCALES]
    fitting = [(float(found.max()), scale) for found, scale in zip(tried, SCALES, strict=True) if found is not None]
    if not fitting:
        raise ShapeError(f"watermark: the example of {example.width}x{example.height} does not fit into the photograph")
    scale = _refine_match(wanted, cover, shrunk, max(fitting)[1])
    found = _match(wanted, cover, shrunk * scale)
    assert found is not None
    best = float(found.max())
    mask = np.zeros((picture.height, picture.width), np.float32)
    deviation = float(found.std())
    if best < max(LEAST, ABOVE * deviation):
        return mask
    part = _resize(cover, scale)
    places = _peaks(found, max(NEARLY * best, LEAST, ABOVE * deviation), np.array(part.shape) * shrunk)
    more, missing = _expected(found, places, FAINT * deviation)
    for y, x in [*places, *more]:
        _place_template(mask, part, round(y / shrunk), round(x / shrunk))
    notify(_told(len(places) + len(more), [(y / shrunk, x / shrunk) for y, x in missing], part.shape))
    return as_mask(mask > OPAQUE)


def _template_coverage(example: Picture) -> Grey:
    """Return the mark's opacity, (h, w) in [0, 1]: alpha, or the distance from the colour of the corners."""
    alpha = example.alpha
    if alpha is not None and bool((alpha != alpha.flat[0]).any()):
        cover = alpha / np.float32(largest(alpha.dtype))
    else:
        pixels = example.pixels.astype(np.float32)
        ground = np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)
        away = np.abs(pixels - ground).max(axis=2)
        cover = away / max(float(away.max()), 1e-6)
    if not (cover > OPAQUE).any() or (cover > OPAQUE).all():
        raise ShapeError("watermark: the example shows no mark; it needs one on a transparent or plain background")
    rows, columns = (np.flatnonzero((cover > OPAQUE).any(axis=axis)) for axis in (1, 0))
    part = cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(np.pad(part, 2), dtype=np.float32)


def _edges(values: Grey) -> Grey:
    """Return gradients in x and y with limited magnitude, (H, W, 2)."""
    import cv2

    soft = cv2.GaussianBlur(values, (0, 0), 0.8)
    slopes = np.stack([cv2.Sobel(soft, cv2.CV_32F, *d, ksize=3) / 4.0 for d in ((1, 0), (0, 1))], axis=-1)
    return np.asarray(slopes / (BOUND + np.hypot(slopes[..., :1], slopes[..., 1:])), dtype=np.float32)


def _match(wanted: Grey, cover: Grey, scale: float) -> Grey | None:
    """Correlate the edges of `cover`, resized by `scale`, at every position; None if it does not fit.

    The absolute value is taken, since a mark darker than the photograph has opposite edge directions.
    """
    import cv2

    part = _resize(cover, scale)
    if min(part.shape) < 6 or part.shape[0] > wanted.shape[0] or part.shape[1] > wanted.shape[1]:
        return None
    found = np.abs(cv2.matchTemplate(wanted, _edges(255.0 * part), cv2.TM_CCORR_NORMED))
    return np.asarray(np.nan_to_num(found, nan=0.0, posinf=0.0), dtype=np.float32)


def _refine_match(wanted: Grey, cover: Grey, shrunk: float, scale: float) -> float:
    """Return the best scale within 5 % of `scale`, searched around the best position."""
    found = _match(wanted, cover, shrunk * scale)
    assert found is not None
    y, x = (int(n) for n in np.unravel_index(int(found.argmax()), found.shape))
    high, wide = (round(n * shrunk * scale) for n in cover.shape)
    room = 4 + round(0.1 * max(high, wide))
    near = wanted[max(0, y - room) : y + high + room, max(0, x - room) : x + wide + room]
    best = [
        (float(match.max()), scale * f) for f in FINER if (match := _match(near, cover, shrunk * scale * f)) is not None
    ]
    return max(best)[1] if best else scale


def _peaks(found: Grey, least: float, size: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the positions (y, x) of the best matches above `least`, none of which covers half of another."""
    left, places = found.copy(), list[tuple[int, int]]()
    high, wide = (max(1, int(n / 2)) for n in size)
    while left.max() >= least:
        y, x = (int(n) for n in np.unravel_index(int(left.argmax()), left.shape))
        places.append((y, x))
        left[max(0, y - high) : y + high + 1, max(0, x - wide) : x + wide + 1] = 0.0
    return places


def _expected(found: Grey, places: list[Place], least: float) -> tuple[list[Place], list[Place]]:
    """Look at the lattice's empty places: return those with a match above `least`, and those without."""
    more, missing = list[Place](), list[Place]()
    for y, x in empty_places(places, found.shape):
        top, left = max(y - ROOM, 0), max(x - ROOM, 0)
        near = found[top : y + ROOM + 1, left : x + ROOM + 1]
        dy, dx = (int(n) for n in np.unravel_index(int(near.argmax()), near.shape))
        if near[dy, dx] >= least:
            more.append((top + dy, left + dx))
        else:
            missing.append((y, x))
    return more, missing


def _told(count: int, missing: list[tuple[float, float]], size: tuple[int, ...]) -> str:
    """Return the notice: `count` marks of `size` (h, w) were found, `missing` ones (y, x) were not."""
    said = f"watermark: {count} mark{'' if count == 1 else 's'} found"
    if not missing:
        return said
    boxes = [",".join(str(round(v)) for v in (x, y, x + size[1], y + size[0])) for y, x in missing]
    return f"{said}; expected in the same rows but not clear: add +{' +'.join(f'box:{box}' for box in boxes)}"


def _place_template(mask: Grey, part: Grey, y: int, x: int) -> None:
    """Paste `part` at (y, x), in place, by the maximum of both."""
    there = mask[y : y + part.shape[0], x : x + part.shape[1]]
    np.maximum(there, part[: there.shape[0], : there.shape[1]], out=there)


def _resize(values: Grey, scale: float) -> Grey:
    import cv2

    if scale == 1.0:
        return values
    size = tuple(max(1, round(n * scale)) for n in values.shape[::-1])
    how = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=how), dtype=np.float32)


def _draw(picture: Picture, values: str, notify: Notify = silent) -> Mask:
    if not values:
        raise ShapeError("watermark: write watermark:example.png, a picture of the mark alone")
    return watermark(picture, Picture.read(Path(values)), notify)


WATERMARK = TellingShape(
    "watermark",
    "watermark:example.png",
    _draw,
    "A known mark, given as a picture, wherever it occurs.",
    None,
    finds=True,
    tell=_draw,
)
