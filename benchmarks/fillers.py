"""The fillers that are compared: each is a function (picture uint8 (h, w, 3), hole bool (h, w)) -> picture.

What lies under the hole is grey before a filler sees it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Filler = Callable[[np.ndarray, np.ndarray], np.ndarray]


def telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.inpaint(image, hole.astype(np.uint8) * 255, 3, cv2.INPAINT_TELEA)


def ns(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.inpaint(image, hole.astype(np.uint8) * 255, 3, cv2.INPAINT_NS)


def biharmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(image.astype(np.float64) / 255.0, hole, channel_axis=-1)
    return np.clip(np.rint(filled * 255.0), 0, 255).astype(np.uint8)


def criminisi(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    from criminisi import fill

    return fill(image, hole)


def patches(image: np.ndarray, hole: np.ndarray, **options: object) -> np.ndarray:
    """editkit's embedded `patches` model through the `inpaint` plugin: what `editkit inpaint` does by default."""
    from editkit import edit
    from editkit.plugins import Inpaint

    return edit(image, Inpaint(mask=hole.astype(np.uint8) * 255, **options), model="patches").pixels


def repaint(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return patches(image, hole, method="repaint", jump=2, repeats=3)


def pocket(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The embedded network."""
    from editkit import edit
    from editkit.plugins import Inpaint

    return edit(image, Inpaint(mask=hole.astype(np.uint8) * 255), model="pocket").pixels


CLASSICAL: dict[str, Filler] = {"telea": telea, "ns": ns, "biharmonic": biharmonic, "criminisi": criminisi}

FILLERS: dict[str, Filler] = {**CLASSICAL, "patches": patches, "repaint": repaint, "pocket": pocket}
