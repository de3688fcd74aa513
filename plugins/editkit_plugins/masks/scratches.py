"""`scratches`: lines that are brighter or darker than both of their sides, including hairs and folds.

In each of 16 directions, the mean along a short stroke is compared with the strokes on its two sides. A ridge exceeds
both; an edge exceeds only one. A ridge is kept if it forms a long path, straight or bent, whose pixels continue in
about the same direction (path openings: Talbot & Appleton 2007), if it stands well above the usual ridges around it,
and if it lies on top of the picture (`laid`). The search runs at full size, and at a half, a quarter and an eighth.

A wire, a mast or a blade of grass is a line as well. Check the result (`editkit mask photo.png --add scratches --show
seen.png`) and remove false lines, or restrict it to a region: `scratches&box:0,0,50%,100%`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from editkit.pictures.picture import Picture
from editkit.pictures.raster import largest
from editkit.pictures.shapes import Mask, Shape, ShapeError, as_mask
from editkit_plugins.masks.overlaid import find_overlaid_lines
from editkit_plugins.restoring.memory import afford

Grey = NDArray[np.float32]
"""(H, W) in levels of 255."""

STROKE = 25
"""Length of a stroke in pixels."""

BESIDE = 3.0
"""Distance from a stroke to the strokes beside it, in pixels."""

WEAKEST, LEAST = 4.0, 9.0
"""Least contrast of a pixel on a path, and of a strong pixel, in levels of 255."""

ABOVE_WEAK, ABOVE = 2.0, 3.5
"""The same, relative to the mean ridge of the surroundings."""

SHARE = 0.3
"""Least fraction of strong pixels among the path's pixels around each of them."""

OUT = 1.0
"""Least distance of a line from the mean of its surroundings, in their standard deviations."""

WEAK = 0.3
"""Least contrast of a line's pixel, relative to its ridge."""

AROUND = 61
"""Side of the surroundings, in pixels."""

LENGTH, SHORTEST = 0.08, 32
"""Least length of a path: as a fraction of the longer side, and in pixels of the downscaled picture."""


HELD = 13
"""Arrays of three floats a pixel held at once, including the ridges of 16 directions."""


def scratches(picture: Picture, eager: float = 1.0) -> Mask:
    """Mark scratches, hairs and folds, 1 to about 8 pixels wide (more on large pictures): (H, W) of 0 and 1.

    `eager`: 2 finds lines with half the contrast, and more false ones.

    Raises:
        PictureError: the picture needs more memory than is free.
    """
    import cv2

    height, width = picture.height, picture.width
    afford(f"looking for scratches in {width}x{height}", width, height, HELD)
    all_, every = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    for whole in tones(picture):
        found, tone, colours = np.zeros((height, width), np.uint8), whole, in_levels(picture)
        for scale in (1, 2, 4, 8):
            if min(tone.shape) < 2 * STROKE or (scale == 8 and max(height, width) < 2500):
                break
            lines, angle = _lines(tone, eager, max(round(LENGTH * max(height, width) / scale), SHORTEST))
            lines = cv2.dilate(lines, np.ones((3, 3), np.uint8))
            laid = find_overlaid_lines(lines, angle, colours, tone, eager)
            lines, laid = (cv2.resize(z, (width, height), interpolation=cv2.INTER_NEAREST) for z in (lines, laid))
            found |= laid if scale == 1 else _new_lines(laid, every | all_, scale)
            every |= lines
            tone = cv2.resize(tone, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            colours = cv2.resize(colours, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        all_ |= complete_lines(found, whole, max(LENGTH * max(height, width), SHORTEST))
    return as_mask(all_)


def tones(picture: Picture) -> tuple[Grey, Grey]:
    """Return two tones, (H, W) each, in which damage is bright: the minimum channel, and the inverted maximum channel.

    White damage is brightest in the first, black damage in the second; coloured objects stand out less in both.
    """
    pixels = in_levels(picture)
    return pixels.min(axis=2), 255.0 - pixels.max(axis=2)


def in_levels(picture: Picture) -> Grey:
    """Return the colours in levels of 255, (H, W, 3) float32."""
    return picture.visible.astype(np.float32) * np.float32(255.0 / largest(picture.pixels.dtype))


def _lines(grey: Grey, eager: float, least: int) -> tuple[NDArray[np.uint8], Grey]:
    """Find bright lines of at least `least` pixels: (H, W) of 0 and 1, and the best line's angle at each pixel."""
    import cv2

    angles = [np.pi * k / 16 for k in range(16)]
    ridges = [ridge(grey, angle) for angle in angles]
    best = np.max(ridges, axis=0)
    usual = cv2.blur(np.maximum(best, 0.0), (AROUND, AROUND), borderType=cv2.BORDER_REFLECT)
    over = np.maximum(WEAKEST, ABOVE_WEAK * usual) / eager
    strong = best > np.maximum(LEAST, ABOVE * usual) / eager
    strong &= out_of_place(grey, AROUND, OUT / eager)
    found = np.zeros(grey.shape, np.uint8)
    for k in range(0, 16, 4):  # a path stays within 45 degrees of an axis or a diagonal
        near = np.max([ridges[(k + d) % 16] for d in (-2, -1, 0, 1, 2)], axis=0)
        path = paths((near > over).astype(np.uint8), k // 4, least)
        share = _share(strong & (path > 0), path > 0, least)
        found |= paths((share > SHARE).astype(np.uint8) & path, k // 4, least)
    # a stroke is wider than a thin line: keep only the ridge's pixels that have a good part of its contrast
    hat = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    high = cv2.dilate(np.where(found > 0, best, np.float32(0.0)), np.ones((3, 3), np.uint8))
    angle = np.argmax(ridges, axis=0).astype(np.float32) * np.float32(np.pi / 16)
    return np.asarray((found > 0) & (hat > WEAK * high), dtype=np.uint8), angle


def complete_lines(found: NDArray[np.uint8], grey: Grey, least: float) -> NDArray[np.uint8]:
    """Widen and extend the straight lines of `found` (H, W) to their full width and length in `grey` (H, W).

    A line is as wide as its profile exceeds `EDGE` of its height above both sides. It continues while a stroke of it
    has `GOES_ON` of the height, across gaps of up to a stroke.
    """
    import cv2

    strips = np.zeros_like(found)
    lines = cv2.HoughLinesP(found, 1, np.pi / 720, round(0.5 * least), minLineLength=least, maxLineGap=STROKE // 2)
    ends = [] if lines is None else lines.reshape(-1, 2, 2).astype(np.float64)
    for begin, end in sorted(ends, key=lambda line: -float(np.hypot(*(line[1] - line[0])))):
        length = float(np.hypot(*(end - begin)))
        along = (end - begin) / length
        on = np.rint(begin + np.arange(0.0, length)[:, None] * along).astype(int)
        if strips[on[:, 1], on[:, 0]].mean() > SEEN:
            continue  # another line of the same scratch
        middle, half = (begin + end) / 2.0, length / 2.0
        for corners in _strips(grey, middle, along, np.array([-along[1], along[0]]), (-half, half)):
            cv2.fillConvexPoly(strips, corners, 1)
    return found | strips


SEEN = 0.7
"""A line of which more than this fraction is covered already belongs to a completed one."""

EDGE, GOES_ON, STANDS_OUT = 0.2, 0.4, 40.0
"""Fractions of a line's height (see `complete_lines`), and its least height in levels of 255."""

HALF, FAR = 9, 15
"""Largest half width of a line, and largest distance at which its sides are sampled, in pixels."""


def _strips(
    grey: Grey, middle: NDArray[np.float64], along: NDArray[np.float64], across: NDArray[np.float64],
    ends: tuple[float, float],
) -> list[NDArray[np.int32]]:  # fmt: skip
    """Return the area of a straight line as polygons of three strokes' length, corners (4, 2) as x, y.

    The list is empty if the line does not stand out.
    """
    import cv2

    beyond = 0.5 * (ends[1] - ends[0])
    t, d = np.arange(ends[0] - beyond, ends[1] + beyond), np.arange(-FAR, FAR + 1.0)
    at = middle + t[:, None, None] * along + d[None, :, None] * across
    there = np.all((at >= 0) & (at <= (grey.shape[1] - 1, grey.shape[0] - 1)), axis=(1, 2))
    x, y = (at[..., k].astype(np.float32) for k in (0, 1))
    seen = cv2.blur(cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), (1, STROKE))
    sides = np.maximum(seen[:, d < -HALF].mean(1), seen[:, d > HALF].mean(1))
    excess = seen - sides[:, None]
    inside = np.flatnonzero((t >= ends[0]) & (t <= ends[1]))
    usual = np.median(excess[inside], axis=0)
    low, high, height = _line_width(usual)
    if height < STANDS_OUT:
        return []
    on = there & (
        excess[:, max(min(low, FAR + 2), FAR - 2) : max(min(high + 1, FAR + 3), FAR - 1)].mean(1) > GOES_ON * height
    )
    first, last = _extend(on, int(inside[0]), int(inside[-1]))
    made = []
    for begin in range(first, last, 3 * STROKE):
        end = min(begin + 3 * STROKE, last)
        left, right, here = _line_width(np.median(excess[begin : end + 1], axis=0))
        if here < GOES_ON * height:
            left, right = low, high
        pairs = ((begin, d[left] - 1), (end, d[left] - 1), (end, d[right] + 1), (begin, d[right] + 1))
        made.append(np.rint(np.array([middle + t[k] * along + o * across for k, o in pairs])).astype(np.int32))
    return made


def _line_width(profile: Grey) -> tuple[int, int, float]:
    """Return (first index, last index, height) of a line in its cross-section `profile`."""
    near = profile[FAR - 4 : FAR + 5]
    centre, height = FAR - 4 + int(near.argmax()), float(near.max())
    low, high = centre, centre
    while low > FAR - HALF and profile[low - 1] > EDGE * height:
        low -= 1
    while high < FAR + HALF and profile[high + 1] > EDGE * height:
        high += 1
    return low, high, height


def _extend(on: NDArray[np.bool_], first: int, last: int) -> tuple[int, int]:
    """Extend [first, last] while the line is `on`, across gaps of up to a stroke."""
    while first > 0 and on[max(first - STROKE, 0) : first].any():
        first = max(first - STROKE, 0) + int(on[max(first - STROKE, 0) : first].argmax())
    while last < len(on) - 1 and on[last + 1 : last + 1 + STROKE].any():
        last += 1 + int(np.flatnonzero(on[last + 1 : last + 1 + STROKE])[-1])
    return first, last


def _new_lines(lines: NDArray[np.uint8], found: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Return the pieces of `lines`, found in a smaller picture, that lie mostly away from `found`.

    The area between a line and an edge looks like a wider line at a smaller scale.
    """
    import cv2

    known = cv2.dilate(found, np.ones((12 * scale + 1, 12 * scale + 1), np.uint8)) > 0
    count, labels = cv2.connectedComponents(lines, connectivity=8)
    whole, covered = (np.bincount(labels[where], minlength=count) for where in (lines > 0, (lines > 0) & known))
    return np.asarray((covered < 0.5 * whole)[labels] & (lines > 0), dtype=np.uint8)


def _share(part: NDArray[np.bool_], whole: NDArray[np.bool_], side: int) -> Grey:
    """Return the fraction of `whole` that is `part`, in the square around each pixel."""
    import cv2

    counted = (cv2.blur(values.astype(np.float32), (side | 1, side | 1)) for values in (part, whole))
    of, all_ = counted
    return np.asarray(of / np.maximum(all_, 1e-6), dtype=np.float32)


def out_of_place(grey: Grey, side: int, deviations: float) -> NDArray[np.bool_]:
    """Return where a pixel exceeds the mean of the square around it by `deviations` standard deviations, (H, W)."""
    import cv2

    mean = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REFLECT)
    square = cv2.blur(grey * grey, (side, side), borderType=cv2.BORDER_REFLECT)
    deviation = np.sqrt(np.maximum(square - mean * mean, 0.0))
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.7) > mean + deviations * deviation)


def ridge(grey: Grey, angle: float) -> Grey:
    """Return by how much the mean of a stroke through each pixel exceeds both strokes beside it, (H, W).

    `angle` is in radians; the unit is that of `grey`.
    """
    import cv2

    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    stroke = cv2.filter2D(grey, -1, _line_kernel(along), borderType=cv2.BORDER_REFLECT)
    made: Grey = stroke - np.maximum(_shift(stroke, BESIDE * across), _shift(stroke, -BESIDE * across))
    return made


def _line_kernel(along: NDArray[np.float64]) -> Grey:
    """Return a filter kernel with sum 1: a line through the centre, about 1.5 pixels wide."""
    reach = STROKE // 2 + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    on, off = x * along[0] + y * along[1], y * along[0] - x * along[1]
    weight = np.exp(-(off**2) / (2.0 * 0.6**2)) * (np.abs(on) <= STROKE / 2.0)
    return np.asarray(weight / weight.sum(), dtype=np.float32)


def _shift(values: Grey, by: NDArray[np.float64]) -> Grey:
    """Return values(p + by), bilinearly interpolated."""
    import cv2

    matrix = np.array([[1.0, 0.0, by[0]], [0.0, 1.0, by[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    made: Grey = cv2.warpAffine(values, matrix, values.shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    return made


def paths(on: NDArray[np.uint8], turn: int, least: int) -> NDArray[np.uint8]:
    """Keep the pixels of `on` (H, W) that lie on a path of at least `least` pixels.

    A path's direction stays within 45 degrees of `turn` * 45 degrees, measured from the x axis towards the y axis
    (which points down). Gaps of one or two pixels are bridged.
    """
    import cv2

    if turn == 2:
        return _long_downward_paths(on, least)
    if turn == 0:
        return np.ascontiguousarray(_long_downward_paths(np.ascontiguousarray(on.T), least).T)
    height, width = on.shape
    side = height + width  # fits the picture rotated by any angle
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 45.0 * turn - 90.0, 1.0)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    upright = cv2.warpAffine(255 * on, matrix, (side, side), flags=cv2.INTER_LINEAR) > 80  # keeps lines free of holes
    long = 255 * _long_downward_paths(upright.astype(np.uint8), least)
    back = cv2.warpAffine(long, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray((back > 0) & (on > 0), dtype=np.uint8)


def _long_downward_paths(on: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """Keep the pixels of `on` that lie on a downward path of at least `least` rows."""
    import cv2

    bridged = cv2.morphologyEx(on, cv2.MORPH_CLOSE, np.ones((3, 1), np.uint8))
    both = _reaching(bridged) + _reaching(bridged[::-1])[::-1]
    return np.asarray((both > least) & (on > 0), dtype=np.uint8)


def _reaching(on: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the length, in rows, of the longest downward path that ends at each pixel (8-connected)."""
    reached = np.zeros((on.shape[0], on.shape[1] + 2), np.int32)
    for y in range(on.shape[0]):
        above = reached[y - 1] if y else np.zeros_like(reached[0])
        reached[y, 1:-1] = (np.maximum(np.maximum(above[:-2], above[2:]), above[1:-1]) + 1) * on[y]
    return reached[:, 1:-1]


def eagerness(word: str, values: str) -> float:
    """Parse the number after the colon of `word`; 1 if there is none.

    Raises:
        ShapeError: it is not a number between 0.1 and 10.
    """
    try:
        number = float(values or 1.0)
    except ValueError:
        number = np.nan
    if not 0.1 <= number <= 10.0:
        raise ShapeError(f"'{word}:{values}': write {word}, or {word}:2 to find more (0.1 to 10)")
    return number


SCRATCHES = Shape(
    "scratches", "scratches:eagerness", lambda picture, values: scratches(picture, eagerness("scratches", values)),
    "Scratches, hairs and folds; scratches:2 finds more.", finds=True,
)  # fmt: skip
