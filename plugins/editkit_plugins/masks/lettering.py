"""`lettering`: text of any kind, found by PP-OCR's detector (Liao et al. 2020, "DB", arXiv:1911.08947).

The network predicts for each pixel whether it is in the kernel of a line of text, that is, in the shrunk line. Each
kernel is grown back in proportion to its height. OpenCV reads the network from a file in the package
rapidocr-onnxruntime (4.7 MB, Apache-2.0). The package itself is never imported, so its dependencies are not needed. The
mask covers whole lines; `lettering&color:white` marks only their white strokes.
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
from editkit.pictures.shapes import Mask, NetworkShape, ShapeError, as_mask

PACKAGE, FILE = "rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"

SURE, SURE_LINE = 0.3, 0.6
"""Thresholds on the probability of a kernel's pixel, and on its mean over a line."""

SIDE = 1280
"""Larger pictures are downscaled to this longer side for detection."""

GROWN = 1.4
"""Distance by which a kernel is grown, in half heights of the kernel. For a long line this corresponds to the paper's
shrink ratio of 0.4 and the authors' growth by 1.5 times area over length.
"""


def lettering(picture: Picture, values: str, models: Sequence[str]) -> Mask:
    """Mark lines of text: (H, W) of 0 and 1.

    Raises:
        ExtraError: the detector's file is missing.
        ModelError: the file is not such a detector.
    """
    import cv2

    if values:
        raise ShapeError(f"'lettering:{values}': lettering takes nothing after a colon")
    likely = _detect_kernels(_file(models), np.asarray(at_depth(picture.pixels, np.uint8)))
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


def _detect_kernels(file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probability that a pixel belongs to a kernel, (h, w), at the network's size (multiples of 32)."""
    import cv2

    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    high, wide = (max(32, round(side * scale / 32) * 32) for side in pixels.shape[:2])
    small = cv2.resize(pixels, (wide, high), interpolation=cv2.INTER_AREA)
    try:
        network = cv2.dnn.readNet(str(file))
        network.setInput(cv2.dnn.blobFromImage(small[..., ::-1], 1.0 / 127.5, (wide, high), (127.5,) * 3))
        out = network.forward()
    except cv2.error as error:
        raise ModelError(f"{file}: OpenCV cannot read it as PP-OCR: {' '.join(str(error).split())[:160]}") from None
    if out.shape != (1, 1, high, wide):
        raise ModelError(f"{file}: is not a text detector; PP-OCR's det .onnx is needed")
    return np.asarray(out[0, 0], dtype=np.float32)


def _file(models: Sequence[str]) -> Path:
    """Return the detector's file: from --mask-model, else from the installed package."""
    for name in models:
        if name.endswith(".onnx") and "det" in Path(name).name:
            if not Path(name).is_file():
                raise ModelError(f"--mask-model {name}: there is no such file")
            return Path(name)
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ExtraError(
            "lettering: needs the file of PP-OCR's detector: pip install --no-deps rapidocr-onnxruntime (only the file "
            "is read), or --mask-model FILE.det.onnx"
        )
    return Path(spec.submodule_search_locations[0]) / FILE


LETTERING = NetworkShape(
    "lettering", "lettering", lambda picture, values: lettering(picture, values, ()),
    "Text: letters and digits of any kind.", None, True, ask=lettering,
)  # fmt: skip
