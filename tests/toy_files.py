"""Files made byte by byte, as cameras and other programs write them, and what an edit makes of them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageCms

from editkit.errors import PictureError
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk
from editkit.pictures.picture import Picture

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><tiff:Orientation>6</tiff:Orientation><dc:creator>me</dc:creator></x:xmpmeta>"
)


ALL = range(1, 9)

# The sides of the upright picture that the file's first row and first column are (EXIF 2.32, tag 0x0112).
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored(upright_pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """How a picture lies in a file of that orientation, straight from the standard's table."""
    row, column = SIDES[orientation]
    height, width = upright_pixels.shape[:2]
    turned = row in ("left", "right")
    result = np.empty(
        (width, height, *upright_pixels.shape[2:]) if turned else upright_pixels.shape, upright_pixels.dtype
    )
    for r in range(result.shape[0]):
        for c in range(result.shape[1]):
            y, x = (c, r) if turned else (r, c)
            y = height - 1 - y if "bottom" in (row, column) else y
            x = width - 1 - x if "right" in (row, column) else x
            result[r, c] = upright_pixels[y, x]
    return result


def exif(orientation: int, order: str = ">", thumbnail: bytes = b"the old picture") -> bytes:
    """EXIF with a maker, an orientation and a thumbnail."""
    make = b"editkit\0"
    entries = [(0x010F, 2, len(make), None), (0x0112, 3, 1, orientation)]
    second = 8 + 2 + 12 * len(entries) + 4
    at_make = second + 2 + 12 * 2 + 4
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, len(entries))
    data += struct.pack(order + "HHLL", 0x010F, 2, len(make), at_make)
    data += struct.pack(order + "HHLHH", 0x0112, 3, 1, orientation, 0)
    data += struct.pack(order + "LH", second, 2)
    data += struct.pack(order + "HHLL", 0x0201, 4, 1, at_make + len(make))
    data += struct.pack(order + "HHLL", 0x0202, 4, 1, len(thumbnail))
    return data + struct.pack(order + "L", 0) + make + thumbnail


def png_file(array: NDArray[Any], *chunks: bytes, depth: int = 16) -> bytes:
    """A PNG of any depth, written here without Pillow or OpenCV."""
    height, width, count = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in array)
    header = struct.pack(">LLBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"".join(
        [
            PNG_SIGNATURE,
            png_chunk(b"IHDR", header),
            *chunks,
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        ]
    )


def tiff_file(array: NDArray[Any], orientation: int, order: str, *, planar: bool = False) -> bytes:
    """An uncompressed TIFF with ICC and XMP, written here without Pillow or OpenCV."""
    height, width, count = array.shape
    bits = array.dtype.itemsize * 8
    body = (array.transpose(2, 0, 1) if planar else array).astype(array.dtype.newbyteorder(order)).tobytes()
    plane = len(body) // count
    values: dict[int, tuple[int, Any]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * count),
        259: (3, [1]),
        262: (3, [1 if count < 3 else 2]),
        271: (2, b"editkit\0"),
        273: (4, [plane * k for k in range(count)] if planar else [0]),
        274: (3, [orientation]),
        277: (3, [count]),
        278: (4, [height]),
        279: (4, [plane] * count if planar else [len(body)]),
        284: (3, [2 if planar else 1]),
        700: (1, XMP),
        34675: (7, ICC),
    }
    if count in (2, 4):
        values[338] = (3, [2])
    head = 8 + 2 + 12 * len(values) + 4
    extra, table = b"", b""
    sizes = {tag: len(v) * (2 if kind == 3 else 4) if kind in (3, 4) else len(v) for tag, (kind, v) in values.items()}
    pixels_at = head + sum(size + size % 2 for size in sizes.values() if size > 4)
    for tag, (kind, value) in sorted(values.items()):
        if tag == 273:
            value = [pixels_at + v for v in value]
        packed = (
            value
            if isinstance(value, bytes)
            else struct.pack(f"{order}{len(value)}{'H' if kind == 3 else 'L'}", *value)
        )
        table += struct.pack(order + "HHL", tag, kind, len(value))
        if len(packed) <= 4:
            table += packed.ljust(4, b"\0")
        else:
            table += struct.pack(order + "L", head + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "LH", 8, len(values)) + table + struct.pack(order + "L", 0) + extra + body


def noise(height: int, width: int, channels: int, dtype: Any, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def colours(array: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(array[..., :1], 3, axis=2) if array.shape[2] < 3 else array[..., :3]


def edited(picture: Picture) -> tuple[Picture, NDArray[np.bool_]]:
    """The picture with its lower right corner made anew, and where that is."""
    mask = np.zeros((picture.height, picture.width), np.float32)
    mask[picture.height // 2 :, picture.width // 2 :] = 1.0
    pixels = picture.pixels.copy()
    pixels[mask > 0] = np.array([7, 8, 9], picture.pixels.dtype)
    return picture.with_pixels(pixels).with_mask(mask), mask > 0


def written(picture: Picture, tmp_path: Path, ending: str) -> tuple[Picture, Path]:
    path = tmp_path / f"out{ending}"
    picture.write(path)
    return Picture.read(path), path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Picture.read(noise(20, 30, 3, np.uint8)).write(path)
    return path


def line(error: pytest.ExceptionInfo[PictureError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text
