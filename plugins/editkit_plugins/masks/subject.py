"""`subject:x0,y0,x1,y1`: the object in a box, by GrabCut (Rother et al. 2004); `background:...`: everything else.

With ViTMatte (`--mask-model`) the mask has a soft edge. OpenCV's GrabCut fits one Gaussian mixture to the colours of
the background, initially everything outside the box, and one to those of the subject, and cuts between them along
edges, for five iterations. The subject's colours must differ from those around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from editkit.errors import PictureError
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.shapes import Mask, NetworkShape, ShapeError, as_mask, box, coordinates
from editkit_plugins.masks.asked import soft

SIDE = 640
"""Larger pictures are segmented at this longer side, which limits the precision of the edge."""

ROUNDS = 5
LEAST = 4
"""Least side of the box and of its surroundings at that size, in pixels."""


def subject(picture: Picture, x0: float, y0: float, x1: float, y1: float) -> Mask:
    """Segment the subject in a box (corners in pixels): (H, W) of 0 and 1. The result is deterministic.

    Raises:
        ShapeError: the box is outside the picture, tiny, or leaves no background around it.
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
    cv2.setRNGSeed(0)  # per thread; the mixtures start from random centres
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
    """Return the background.

    Raises:
        PictureError: there is no subject, so the whole picture would be background.
    """
    try:
        found = _ask(picture, values, models)
    except ShapeError as error:
        raise ShapeError(str(error).replace("subject:", "background:")) from None
    if not found.any():
        raise PictureError(f"background:{values}: no subject was found in that box, so everything would be background")
    return as_mask(1.0 - found)


SUBJECT = NetworkShape(
    "subject", "subject:x0,y0,x1,y1", _draw, "The object in a box (GrabCut).", "16,12,48,36", True, ask=_ask,
)  # fmt: skip
BACKGROUND = NetworkShape(
    "background", "background:x0,y0,x1,y1", lambda picture, values: _rest(picture, values, ()),
    "Everything but the object in a box.", None, True, ask=_rest,
)  # fmt: skip
