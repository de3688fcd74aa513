"""The fillers that are compared: each is a function (picture uint8 (h, w, 3), hole bool (h, w)) -> picture.

What lies under the hole is grey before a filler sees it.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

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


def matchpatch(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """G'MIC's `inpaint_matchpatch` (Debian's package gmic) with its own settings, but that nothing outside changes."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("image.png", "mask.png", "out.png")]
        Image.fromarray(image).save(files[0])
        Image.fromarray(hole.astype(np.uint8) * 255).save(files[1])
        words = ["gmic", "-v", "-1", *map(str, files[:2]), "inpaint_matchpatch[0]", "[1],0,9,10,5,0"]
        subprocess.run([*words, "keep[0]", "output", str(files[2])], check=True, capture_output=True)
        return np.where(hole[..., None], np.asarray(Image.open(files[2]).convert("RGB")), image)


def patchmatch(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """patchmatch-cython (PyPI) with its own settings; what it softens outside of the hole is put back."""
    from patchmatch_cython import inpaint_pyramid

    filled = inpaint_pyramid(image, hole.astype(np.uint8) * 255, seed=0)
    return np.where(hole[..., None], filled, image)


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


CLASSICAL: dict[str, Filler] = {
    "telea": telea, "ns": ns, "biharmonic": biharmonic, "criminisi": criminisi, "matchpatch": matchpatch,
    "patchmatch": patchmatch,
}  # fmt: skip

MISSING = {
    "matchpatch": lambda: None if shutil.which("gmic") else "Debian's package gmic",
    "patchmatch": lambda: None if importlib.util.find_spec("patchmatch_cython") else "pip install patchmatch-cython",
}
"""What a filler needs that is not there, in words."""

FILLERS: dict[str, Filler] = {**CLASSICAL, "patches": patches, "repaint": repaint, "pocket": pocket}
