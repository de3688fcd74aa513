"""Motion between frames: the camera's as a homography, that of objects as dense optical flow.

A homography H maps points (x, y, 1) of one frame to another. Kanade-Lucas-Tomasi points with RANSAC estimate it between
neighbouring frames; enhanced correlation (Evangelidis & Psarakis 2008) refines it between distant ones; DIS flow
(Kroeger et al. 2016, arXiv:1603.03590) follows moving objects. All are OpenCV's implementations.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from editkit.pictures.boxes import Box
from editkit.pictures.raster import Pixels, largest

Homography = NDArray[np.float64]
"""Shape (3, 3)."""

Grey = NDArray[np.uint8]
Where = NDArray[np.bool_]

POINTS = 600
"""Points tracked from one frame to the next."""

FEWEST = 12
"""With fewer points, a frame counts as still."""


def grey(pixels: Pixels) -> Grey:
    """Convert (H, W, 3) of either depth to grey (H, W) uint8."""
    eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    return np.asarray(cv2.cvtColor(eight, cv2.COLOR_RGB2GRAY), np.uint8)


def estimate_homography(before: Grey, after: Grey, moving: Where) -> Homography:
    """Estimate the homography from `before` to `after`, without the `moving` pixels of `before`."""
    still = (~moving).astype(np.uint8)
    points = cv2.goodFeaturesToTrack(before, POINTS, 0.005, 5, mask=still)
    if points is None or len(points) < FEWEST:
        return np.eye(3)
    there, good = _track_points(before, after, points)
    if good.sum() < FEWEST:
        return np.eye(3)
    H, _ = cv2.findHomography(points[good], there[good], cv2.USAC_MAGSAC, 0.5, maxIters=2000, confidence=0.999)
    return np.eye(3) if H is None or not np.isfinite(H).all() else np.asarray(H, np.float64)


def refine_homography(H: Homography, of: Grey, into: Grey, valid: Where) -> Homography:
    """Refine the homography `H` from frame `of` to frame `into` to subpixel accuracy; if that fails, return `H`.

    `valid`: the pixels of `of` to use. The frames are not blurred first, because a blur mixes invalid pixels into valid
    ones. With OpenCV's usual 5 pixels the mean error was a twentieth of a pixel, different in every frame; without it,
    a hundredth.
    """
    back = np.linalg.inv(H)
    try:
        _, found = cv2.findTransformECC(
            into, of, (back / back[2, 2]).astype(np.float32), cv2.MOTION_HOMOGRAPHY,
            (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-5), valid.astype(np.uint8), 1,
        )  # fmt: skip
        made = np.linalg.inv(found.astype(np.float64))
    except (cv2.error, np.linalg.LinAlgError):
        return H
    return made if np.isfinite(made).all() else H


def warp(image: NDArray[Any], H: Homography, box: Box) -> NDArray[np.float32]:
    """Warp `image` (h, w, c) by `H`, and return the part `box` of the result; edge pixels are repeated.

    It uses cubic convolution of third order with a = -0.5 (Keys 1981, doi:10.1109/TASSP.1981.1163711). OpenCV's
    bicubic has a = -0.75, which sharpens: fine detail then differs between frames by more than it does in the video.
    """
    y, x = np.mgrid[box.top : box.bottom, box.left : box.right].astype(np.float64)
    to = np.linalg.inv(H)
    u, v, w = (to[k, 0] * x + to[k, 1] * y + to[k, 2] for k in range(3))
    (columns, across), (rows, down) = (_bicubic_taps(at / w, n) for at, n in ((u, image.shape[1]), (v, image.shape[0])))
    flat = image.reshape(-1, image.shape[2])
    made = np.zeros((*y.shape, image.shape[2]), np.float32)
    for row, one in zip(rows, down, strict=True):
        for column, other in zip(columns, across, strict=True):
            made += (one * other)[..., None] * flat[row * image.shape[1] + column]
    return made


def _bicubic_taps(at: NDArray[np.float64], n: int) -> tuple[list[NDArray[np.intp]], list[NDArray[np.float32]]]:
    """Return the four of `n` pixels around each position, and their weights."""
    at = np.clip(at, -2.0, n + 1.0)
    below = np.floor(at)
    t = (at - below).astype(np.float32)
    places = [np.clip(below + k, 0, n - 1).astype(np.intp) for k in (-1, 0, 1, 2)]
    s = 1 - t
    shares = (-t * s * s / 2, (3 * t - 5) * t * t / 2 + 1, (3 * s - 5) * s * s / 2 + 1, -s * t * t / 2)
    return places, [np.asarray(share, np.float32) for share in shares]


def warp_mask(where: Where, H: Homography, size: tuple[int, int], beyond: bool) -> Where:
    """Warp a boolean mask by `H`; `beyond`: the value beyond the edges. A partly true pixel becomes true."""
    soft = where.astype(np.float32)
    made = cv2.warpPerspective(soft, H, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
                               borderValue=float(beyond))  # fmt: skip
    return np.asarray(made > 1e-3)


def warp_labels(names: NDArray[np.int32], H: Homography) -> NDArray[np.int32]:
    """Warp integer labels (below 2^24) by `H`, to the nearest pixel; 0 beyond the edges."""
    made = cv2.warpPerspective(names.astype(np.float32), H, names.shape[::-1], flags=cv2.INTER_NEAREST)
    return np.asarray(made, np.int32)


def optical_flow(of: Grey, into: Grey) -> NDArray[np.float32]:
    """Return (H, W, 2): the offset of each pixel of `into` to its position in `of`, by DIS."""
    made = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(into, of, None)
    return np.asarray(made, np.float32)


def warp_by_flow(image: NDArray[Any], by: NDArray[np.float32]) -> NDArray[Any]:
    """Warp `image` from one frame to the other by the `optical_flow` between them; bicubic, edges repeated."""
    h, w = by.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    made = cv2.remap(image, x + by[..., 0], y + by[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(made)


def track_mask(mask: NDArray[np.float32], before: Grey, after: Grey) -> NDArray[np.float32]:
    """Move `mask` from frame `before` to frame `after` with its object.

    The motion is the similarity transform of the inner points that do not move with the camera. With too few points, it
    is the median flow.
    """
    inside = mask > 0.5
    if not inside.any():
        return mask
    core = _core(inside)
    A = _similarity(core, before, after, estimate_homography(before, after, inside))
    if A is None:
        shift = np.median(optical_flow(after, before)[core], axis=0)
        A = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
    return np.asarray(cv2.warpAffine(mask, A, mask.shape[::-1], flags=cv2.INTER_LINEAR), np.float32)


def _core(inside: Where) -> Where:
    """Return the part of a mask deeper than a third of its depth; the corners of a box are not part of the object."""
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(depth > depth.max() / 3.0)


def _similarity(inside: Where, before: Grey, after: Grey, still: Homography) -> NDArray[np.float64] | None:
    """Return rotation, scale and shift of the points `inside` as a (2, 3) matrix; None if there are too few."""
    points = cv2.goodFeaturesToTrack(before, 300, 0.002, 2, mask=inside.astype(np.uint8))
    if points is None or len(points) < FEWEST:
        return None
    there, good = _track_points(before, after, points, 13)
    points, there = points[good], there[good]
    moves = np.linalg.norm(cv2.perspectiveTransform(points, still) - there, axis=2)[:, 0] > 0.7
    if moves.sum() >= FEWEST:
        points, there = points[moves], there[moves]
    if len(points) < FEWEST:
        return None
    A, kept = cv2.estimateAffinePartial2D(points, there, ransacReprojThreshold=1.0)
    return None if A is None or kept.sum() < FEWEST / 2 else np.asarray(A, np.float64)


def _track_points(
    before: Grey, after: Grey, points: NDArray[np.float32], window: int = 21
) -> tuple[NDArray[np.float32], Where]:
    """Track points by pyramidal Lucas-Kanade; return the tracked points, and whether tracking them back agrees."""
    size = (window, window)
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=size, maxLevel=4)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=size, maxLevel=4)
    near = np.linalg.norm(back - points, axis=2)[:, 0] < 0.5
    return there, np.asarray((found[:, 0] == 1) & (again[:, 0] == 1) & near)


def round_to(values: NDArray[np.float32], dtype: np.dtype[Any]) -> Pixels:
    """Round values to a picture's depth."""
    return np.rint(np.clip(values, 0.0, float(largest(dtype)))).astype(dtype)
