"""`faces`: frontal faces, as ellipses a little larger than the detector's boxes.

By default dlib's detector (histograms of oriented gradients and a linear classifier, Dalal & Triggs 2005; King 2015,
arXiv:1502.00046), which is part of the library, so nothing is downloaded. With YuNet's `.onnx` file (`--mask-model`),
OpenCV's FaceDetectorYN, which also finds turned and partly hidden faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from editkit.common.extras import explained
from editkit.errors import ModelError
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.shapes import Mask, NetworkShape, ShapeError, as_mask, ellipse

SURE, SURE_NET = 0.25, 0.6
"""Score thresholds of the two detectors, dlib and YuNet."""

SIDE = 1280
"""Larger pictures are downscaled to this longer side for detection."""

WIDER = 0.25
"""Margin of the ellipse on each side, as a fraction of the box, to include hair and chin."""

Box = tuple[float, float, float, float]


def faces(picture: Picture, values: str, models: Sequence[str]) -> Mask:
    """Mark faces: (H, W) of 0 and 1.

    Raises:
        ModelError: YuNet's file is missing, or cannot be read.
        ShapeError: there are `values`.
    """
    import cv2

    if values:
        raise ShapeError(f"'faces:{values}': faces takes nothing after a colon")
    scale = min(1.0, SIDE / max(picture.size))
    small = cv2.resize(
        np.asarray(at_depth(picture.pixels, np.uint8)), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    )
    files = [name for name in models if name.endswith(".onnx") and "yunet" in Path(name).name.lower()]
    found = by_yunet(files[0], small) if files else by_dlib(small)
    mask = as_mask(np.zeros((picture.height, picture.width)))
    for x0, y0, x1, y1 in found:
        dx, dy = WIDER * (x1 - x0), WIDER * (y1 - y0)
        around = ((x0 - dx) / scale, (y0 - dy) / scale, (x1 + dx) / scale, (y1 + dy) / scale)
        mask = np.maximum(mask, ellipse(picture, *around))
    return mask


def by_dlib(pixels: np.ndarray) -> list[Box]:
    """Detect faces of 40 pixels or more in (H, W, 3) uint8: boxes x0, y0, x1, y1 in pixels."""
    with explained():
        import dlib
    found, sure, _ = dlib.get_frontal_face_detector().run(np.ascontiguousarray(pixels), 1, SURE)
    return [(b.left(), b.top(), b.right() + 1, b.bottom() + 1) for b, _ in zip(found, sure, strict=True)]


def by_yunet(file: str, pixels: np.ndarray) -> list[Box]:
    """Do the same with YuNet's file.

    Raises:
        ModelError: the file is missing, or is not YuNet.
    """
    import cv2

    if not Path(file).is_file():
        raise ModelError(f"--mask-model {file}: there is no such file")
    try:
        detector = cv2.FaceDetectorYN.create(file, "", pixels.shape[1::-1], SURE_NET)
        _, rows = detector.detect(np.ascontiguousarray(pixels[..., ::-1]))
    except cv2.error as error:
        raise ModelError(f"{file}: OpenCV cannot read it as YuNet: {' '.join(str(error).split())[:160]}") from None
    return [] if rows is None else [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in rows[:, :4]]


FACES = NetworkShape(
    "faces", "faces", lambda picture, values: faces(picture, values, ()), "Frontal faces.", None, True, ask=faces
)
