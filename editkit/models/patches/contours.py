"""Find contours that arrive at a hole and the pairs of them that belong together.

A horizon, a ridge, a cornice or a wire that is interrupted by a hole arrives at both sides of it: at the same height,
in the same direction, between the same colours. Such a pair is joined by a curve through the hole (structure first,
texture afterwards: Sun et al. 2005, "Image completion with structure propagation", where a user draws the curves).
Everything is conservative: a false contour looks worse than none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

BLUR, SPREAD = 1.0, 1.5
"""Standard deviations, in pixels, of the blur of the picture and of its structure tensor."""

CLEAR, BAND = 5, 2.5
"""Contours arrive in a band of this width at this distance from the hole, where no unknown pixel has an influence."""

LEAST, ORIENTED = 0.012, 0.5
"""Minimum strength (per pixel, on the scale [-1, 1]) and coherence of an arriving contour."""

WEAKER, LOOSER, TURN = 0.35, 0.35, 0.8
"""A trace ends below this fraction of its first strength, this coherence, or this cosine of the turn from step to step.
"""

LONG, LONGEST, STRAIGHT = 16, 64, 24
"""Minimum and maximum number of points of a trace, and of those that determine its direction."""

WOBBLE = 1.0
"""Maximum deviation of these from a straight line, root mean square, in pixels."""

ARRIVES = 0.35
"""Minimum cosine between a contour and the direction towards the hole."""

BESIDE = 8
"""Half-width, in pixels, of the profile across a contour."""

BEND, GAP = 0.25, 30.0
"""Maximum angle, in radians, between each end and the line that joins the two, and minimum length of that line, in
pixels. At larger angles the head of a hammer was joined to its handle. In strokes the surroundings are better evidence.
"""

SURE = 0.1
"""Angle, in radians, from which the bend of a contour is trusted."""

UNLIKE = 1.2
"""Maximum cost of a pair."""

MOST = 300
"""Maximum number of places, the strongest first, at which a contour may arrive."""

SUBPIXEL = np.arange(-1.0, 1.01, 0.5, dtype=np.float32)
"""Offsets at which a trace looks for the crest, and by which profiles may be shifted, in pixels."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """A contour that ends at the hole.

    Args:
        point: (2,), x and y of its end.
        heading: (2,), unit vector into the hole.
        trace: (n, 2), its points, away from the hole.
        profile: (2 `BESIDE` + 1, 3), colours across it, from the left of `heading` to the right.
    """

    point: Floats
    heading: Floats
    trace: Floats
    profile: Floats


@dataclass(frozen=True, eq=False)
class Contour:
    """A contour through the hole: from the first arrival to the second one."""

    first: Arrival
    second: Arrival

    def path(self) -> Floats:
        """Return points (n, 2) half a pixel apart: the cubic Hermite curve between the two ends.

        A bend below `SURE` is hardly more than the error of the heading, and is reduced.
        """
        p, q = self.first.point, self.second.point
        length = float(np.linalg.norm(q - p))
        s = np.linspace(0.0, 1.0, max(2, round(2 * length)), dtype=np.float32)[:, None]
        begin, end = (_straighten(h, q - p) for h in (self.first.heading, -self.second.heading))
        return np.asarray(
            (2 * s**3 - 3 * s**2 + 1) * p
            + (s**3 - 2 * s**2 + s) * begin
            + (3 * s**2 - 2 * s**3) * q
            + (s**3 - s**2) * end,
            np.float32,
        )


@dataclass(frozen=True, eq=False)
class Field:
    """Strength of the oriented structure at each pixel, the angle of its normal, and its coherence, (h, w) each."""

    strength: Floats
    angle: Floats
    coherence: Floats

    @classmethod
    def of(cls, image: Floats) -> Field:
        """Measure `image` (h, w, 3) by the structure tensor over its channels (Di Zenzo 1986)."""
        soft = cv2.GaussianBlur(image, (0, 0), BLUR)
        x, y = (cv2.Scharr(soft, cv2.CV_32F, *way) / 32.0 for way in ((1, 0), (0, 1)))
        a, b, c = (cv2.GaussianBlur(v.mean(2), (0, 0), SPREAD) for v in (x * x, x * y, y * y))
        half = np.sqrt((a - c) ** 2 / 4.0 + b * b)
        return cls(np.sqrt(2.0 * half), 0.5 * np.arctan2(2.0 * b, a - c), 2.0 * half / (a + c + 1e-9))


def find_contours(image: Floats, region: Flags) -> list[Contour]:
    """Return the contours of `image` (h, w, 3) through `region` (h, w), where its values are a smooth fill."""
    return pair_arrivals(find_arrivals(image, region), region)


def find_arrivals(image: Floats, region: Flags) -> list[Arrival]:
    """Return the contours of `image` (h, w, 3) that arrive at `region` (h, w), the strongest first."""
    field = Field.of(image)
    away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    points, headings = _starts(field, away)
    arrivals: list[Arrival] = []
    taken = np.zeros(region.shape, np.uint8)
    for trace in _traces(field, away >= CLEAR, points, -headings):
        x, y = np.rint(trace[0]).astype(int)
        if len(trace) < LONG or taken[y, x]:
            continue
        for near in np.rint(trace[:8]).astype(int).tolist():
            cv2.circle(taken, near, 3, 1, cv2.FILLED)
        arrival = _arrival(image, trace)
        if arrival is not None:
            arrivals.append(arrival)
    return arrivals


def _starts(field: Field, away: Floats) -> tuple[Floats, Floats]:
    """Return points (n, 2) on crests at the distance `CLEAR` from the hole, the strongest first, and unit vectors."""
    at = (away >= CLEAR) & (away < CLEAR + BAND) & (field.strength > LEAST) & (field.coherence > ORIENTED)
    y, x = np.nonzero(at)
    if len(x) == 0:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    points = np.stack([x, y], 1).astype(np.float32)
    angle = field.angle[at]
    normal = np.stack([np.cos(angle), np.sin(angle)], 1)
    strength = field.strength[at]
    sides = [_sample(field.strength, (points + s * normal).astype(np.float32)) for s in (1.0, -1.0)]
    outward = np.stack([cv2.Sobel(away, cv2.CV_32F, *way)[at] / 8.0 for way in ((1, 0), (0, 1))], 1)
    along = np.stack([-normal[:, 1], normal[:, 0]], 1)
    cosine = (along * outward).sum(1)
    along = along * -np.sign(cosine)[:, None]
    kept = (strength >= np.maximum(*sides)) & (np.abs(cosine) >= ARRIVES)
    order = np.flatnonzero(kept)[np.argsort(-strength[kept], kind="stable")][:MOST]
    return points[order], along[order].astype(np.float32)


def _traces(field: Field, free: Flags, points: Floats, headings: Floats) -> list[Floats]:
    """Follow the crests from `points` (n, 2) along `headings` (n, 2) where `free`; return the points of each."""
    height, width = free.shape
    first = _sample(field.strength, points)
    alive = np.ones(len(points), bool)
    found, lengths = [points], np.ones(len(points), int)
    for _ in range(LONGEST - 1):
        angle = field.angle[tuple(np.rint(points.T[::-1]).astype(int))]
        along = np.stack([-np.sin(angle), np.cos(angle)], 1)
        cosine = (along * headings).sum(1)
        alive &= np.abs(cosine) > TURN
        headings = 0.6 * headings + 0.4 * along * np.sign(cosine)[:, None]
        headings /= np.maximum(np.linalg.norm(headings, axis=1, keepdims=True), 1e-6)
        normal = np.stack([-headings[:, 1], headings[:, 0]], 1)
        offered = ((points + headings)[:, None] + SUBPIXEL[:, None] * normal[:, None]).astype(np.float32)
        heights = _sample(field.strength, offered) - 0.02 * np.abs(SUBPIXEL) * first[:, None]
        moved = np.take_along_axis(offered, heights.argmax(1)[:, None, None], 1)[:, 0].astype(np.float32)
        alive &= (moved >= 0).all(1) & (moved[:, 0] <= width - 1) & (moved[:, 1] <= height - 1)
        moved = moved.clip(0, [width - 1, height - 1]).astype(np.float32)
        alive &= free[tuple(np.rint(moved.T[::-1]).astype(int))]
        alive &= (_sample(field.strength, moved) >= WEAKER * first) & (_sample(field.coherence, moved) >= LOOSER)
        points = np.where(alive[:, None], moved, points)
        found.append(points)
        lengths += alive
    tracks = np.stack(found, 1)
    return [track[:length] for track, length in zip(tracks, lengths, strict=True)]


def _arrival(image: Floats, trace: Floats) -> Arrival | None:
    """Return the arrival of a contour with this `trace`; None if its end is not straight."""
    part = trace[:STRAIGHT]
    middle = part.mean(0)
    heading = np.linalg.svd(part - middle, full_matrices=False)[2][0]
    if (part[0] - part[-1]) @ heading < 0:
        heading = -heading
    normal = np.array([-heading[1], heading[0]])
    if math.sqrt((((part - middle) @ normal) ** 2).mean()) > WOBBLE:
        return None
    point = middle + ((part[0] - middle) @ heading) * heading
    where = part[:, None] + np.arange(-BESIDE, BESIDE + 1)[:, None] * normal
    profile = _sample(image, where.astype(np.float32)).mean(0)
    return Arrival(point.astype(np.float32), heading.astype(np.float32), trace, profile)


def pair_arrivals(arrivals: list[Arrival], region: Flags) -> list[Contour]:
    """Return the pairs that continue each other, the most alike first; each arrival is part of one at most."""
    offers = []
    for i, one in enumerate(arrivals):
        for j in range(i + 1, len(arrivals)):
            cost = _unlikeness(one, arrivals[j])
            if cost < UNLIKE:
                offers.append((cost, i, j))
    used: set[int] = set()
    contours: list[Contour] = []
    crossed = np.zeros(region.shape, np.uint8)
    for _, i, j in sorted(offers):
        contour = Contour(arrivals[i], arrivals[j])
        if used & {i, j} or not _is_free(contour, region, crossed):
            continue
        cv2.polylines(crossed, [np.rint(contour.path()).astype(np.int32)], isClosed=False, color=1, thickness=1)
        used |= {i, j}
        contours.append(contour)
    return contours


def _is_free(contour: Contour, region: Flags, crossed: NDArray[np.uint8]) -> bool:
    """Return whether the contour stays inside the hole and crosses no earlier one."""
    x, y = np.rint(contour.path()).astype(int).T
    if min(x.min(), y.min()) < 0 or x.max() >= region.shape[1] or y.max() >= region.shape[0]:
        return False
    ends = 4 * CLEAR  # points on known ground at both ends
    inside = region[y, x]
    return bool(inside.any()) and int((~inside).sum()) <= 2 * ends and not crossed[y, x].any()


def _straighten(heading: Floats, gap: Floats) -> Floats:
    """Return the tangent of the path, as long as the `gap` (2,), at an end with this `heading` (2,)."""
    bend = 1.0 - float(heading @ gap) / float(np.linalg.norm(gap))  # half the square of the angle
    share = bend / (bend + SURE**2 / 2.0)
    return np.asarray(share * float(np.linalg.norm(gap)) * heading + (1.0 - share) * gap, np.float32)


def _unlikeness(one: Arrival, other: Arrival) -> float:
    """Return the cost of joining two arrivals: differences of their profiles relative to contrast, and their bend."""
    gap = other.point - one.point
    length = float(np.linalg.norm(gap))
    if length < GAP:
        return math.inf
    bends = [math.acos(float(np.clip(s * gap @ end.heading / length, -1, 1))) for s, end in ((1, one), (-1, other))]
    if max(bends) > BEND:
        return math.inf
    p, q = one.profile, other.profile[::-1]
    contrast = max(float(np.sqrt(((v - v.mean(0)) ** 2).mean())) for v in (p, q)) + 1e-6
    best = math.inf
    for shift in SUBPIXEL:
        rows = np.arange(1, 2 * BESIDE) + shift
        low = np.floor(rows).astype(int)
        part = (rows - low)[:, None]
        a = p[low] * (1 - part) + p[np.minimum(low + 1, 2 * BESIDE)] * part
        b = q[1:-1]
        shape = math.sqrt(float((((a - a.mean(0)) - (b - b.mean(0))) ** 2).mean()))
        best = min(best, shape + 0.5 * math.sqrt(float(((a - b) ** 2).mean())))
    return best / contrast + sum(bends)


def _sample(image: Floats, points: Floats) -> Floats:
    """Return the values of `image` (h, w, ...) at `points` (..., 2), bilinearly; beyond the border, the border's."""
    if points.size == 0:
        return np.zeros((*points.shape[:-1], *image.shape[2:]), np.float32)
    at = points.reshape(-1, 2).astype(np.float32)
    found = [
        cv2.remap(image, rows[:, :1], rows[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for rows in np.array_split(at, max(1, len(at) // 16_000))
    ]
    return np.asarray(np.concatenate(found)[:, 0].reshape(*points.shape[:-1], *image.shape[2:]))
