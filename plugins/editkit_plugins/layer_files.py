"""OpenRaster files (.ora), which Krita, GIMP and others open as layers: a zip of PNGs and their order.

Source of the format: openraster.org, version 0.0.3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from editkit.plugin import UsageError

Layer = NDArray[np.uint8]
"""(h, w, 4), red, green, blue, opacity."""

THUMBNAIL = 256
"""Largest side of the preview in the file, in pixels."""


def free(path: str) -> None:
    """Raise UsageError if `path` exists, or its name ends otherwise than in .ora."""
    if Path(path).suffix.lower() != ".ora":
        raise UsageError(f"--save-layers {path}: layers are written as OpenRaster; give a name that ends in .ora")
    if os.path.lexists(path):
        raise UsageError(f"--save-layers {path}: exists already; give another name")


def save(path: str, layers: Sequence[Layer], merged: Layer) -> None:
    """Write the layers, the lowest first, and the whole picture, atomically; the same layers give the same bytes.

    Raises:
        PictureError: the file cannot be written, or exists already.
    """
    from PIL import Image

    from editkit.pictures.files.atomic import save_bytes

    height, width = merged.shape[:2]
    small = Image.fromarray(merged)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    names = [f"data/layer{k + 1}.png" for k in range(len(layers))]
    parts = [("mimetype", b"image/openraster"), ("stack.xml", _stack(width, height, names).encode())]
    parts += [(name, _png(Image.fromarray(layer))) for name, layer in zip(names, layers, strict=True)]
    parts += [("mergedimage.png", _png(Image.fromarray(merged))), ("Thumbnails/thumbnail.png", _png(small))]
    whole = BytesIO()
    with ZipFile(whole, "w", ZIP_STORED) as file:  # the type must come first and be stored, and a PNG is packed already
        for name, data in parts:
            file.writestr(ZipInfo(name), data)
    save_bytes(Path(path), whole.getvalue())


def _stack(width: int, height: int, names: Sequence[str]) -> str:
    """Return the description of the file, which lists the highest layer first."""
    rows = "".join(
        f'<layer name="layer {k + 1}" src="{names[k]}" x="0" y="0" opacity="1.0" visibility="visible" '
        f'composite-op="svg:src-over"/>'
        for k in reversed(range(len(names)))
    )
    image = f'<image version="0.0.3" w="{width}" h="{height}"><stack>{rows}</stack></image>'
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{image}\n"


def _png(image: object) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)
    data = BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
