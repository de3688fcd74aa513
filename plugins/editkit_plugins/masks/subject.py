"""`subject:x0,y0,x1,y1`: what stands in a box, told from what lies outside of it (GrabCut: Rother et al. 2004);
`background:x0,y0,x1,y1`: all else. Where ViTMatte is given (`--mask-model`), with its soft edge.

Two mixtures of Gaussians of colours, of what lies outside of the box and of what does not, and a cut between them where
the picture has edges, five times over, by OpenCV. It needs a subject whose colours are not those around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from editkit.errors import PictureError
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.shapes import Asking, Mask, ShapeError, as_mask, box, coordinates
from editkit_plugins.masks.asked import soft

SIDE = 640
"""Larger pictures are cut at this size; the edge is as fine as its pixels."""

ROUNDS = 5
LEAST = 4
"""What of a box or of its surroundings must be left at that size, in pixels."""


def subject(picture: Picture, x0: float, y0: float, x1: float, y1: float) -> Mask:
    """(H, W) of 0 and 1: 1 for the subject. The same each time.

    Raises:
        ShapeError: the box is outside, tiny, or leaves nothing around it to tell the subject from.
    """
    import cv2

    written = f"subject:{x0:g},{y0:g},{x1:g},{y1:g}"
    if x1 <= max(x0, 0) or y1 <= max(y0, 0) or x0 >= picture.width or y0 >= picture.height:
        raise ShapeError(f"{written}: is not a box in the picture of {picture.width}x{picture.height}")
    inside = box(picture, x0, y0, x1, y1)
    scale = min(1.0, SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = cv2.resize(at_depth(picture.visible, np.uint8), size, interpolation=cv2.INTER_AREA)
    within = cv2.resize(inside, size, interpolation=cv2.INTER_AREA) > 0.5
    if min(within.sum(), (~within).sum()) < LEAST * LEAST:
        raise ShapeError(f"{written}: draw the box around the subject, with some of what lies around it left outside")
    state = np.where(within, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # of this thread alone: the mixtures begin from random centres
    cv2.grabCut(np.ascontiguousarray(small[..., ::-1]), state, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    whole = cv2.resize(found, picture.size, interpolation=cv2.INTER_LINEAR) >= 0.5
    return as_mask(whole & (inside > 0))


def _draw(picture: Picture, values: str) -> Mask:
    numbers = coordinates("subject", values, picture)
    if len(numbers) != 4:
        raise ShapeError(f"'subject:{values}': write subject:x0,y0,x1,y1, a box around the subject")
    return subject(picture, *numbers)


def _ask(picture: Picture, values: str, models: Sequence[str]) -> Mask:
    return soft(picture, _draw(picture, values), models)


def _rest(picture: Picture, values: str, models: Sequence[str]) -> Mask:
    """What the subject is not.

    Raises:
        PictureError: there is no subject: the whole picture would be its background.
    """
    try:
        found = _ask(picture, values, models)
    except ShapeError as error:
        raise ShapeError(str(error).replace("subject:", "background:")) from None
    if not found.any():
        raise PictureError(f"background:{values}: no subject was found in that box, so all would be background")
    return as_mask(1.0 - found)


SUBJECT = Asking(
    "subject", "subject:x0,y0,x1,y1", _draw, "What stands in that box (GrabCut).", "16,12,48,36", True, ask=_ask,
)  # fmt: skip
BACKGROUND = Asking(
    "background", "background:x0,y0,x1,y1", lambda picture, values: _rest(picture, values, ()),
    "What does not stand in that box.", None, True, ask=_rest,
)  # fmt: skip
