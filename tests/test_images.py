"""Pixels of any depth and mode, through the tensor and through every format, turned as the tag says."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_files import ALL, ICC, XMP, colours, edited, exif, noise, png_file, stored, tiff_file, written

from editkit.errors import PictureError
from editkit.pictures.files.decoding import apply_orientation
from editkit.pictures.files.png import png_chunk
from editkit.pictures.files.reading import decode
from editkit.pictures.files.writing import to_bytes
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.tensors import STRIP, from_unit, to_unit

# -------------------------------------------------------------------------------------------------- pixels and tensors


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_survives_the_tensor(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    values = np.arange(top + 1, dtype=dtype).reshape(-1, 16, 1).repeat(3, axis=2)
    unit = to_unit(values)
    assert unit.shape == (1, 3, *values.shape[:2])
    assert unit.min() == -1.0
    assert unit.max() == 1.0
    assert np.array_equal(from_unit(unit, dtype), values)
    assert np.array_equal(from_unit(unit[0], dtype), values)


def test_pictures_taller_than_a_strip_are_converted_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2 * STRIP + 5, 7, 3), dtype=np.uint8)
    unit = to_unit(pixels)
    assert np.array_equal(from_unit(unit, np.uint8), pixels)
    unit[0, 0, -1, 0] = float("nan")
    with pytest.raises(PictureError):
        from_unit(unit, np.uint8)


def test_from_unit_clips_and_refuses_nan() -> None:
    import torch

    image = torch.tensor([-3.0, 0.0, 3.0]).reshape(1, 3, 1, 1)
    assert from_unit(image, np.uint8).tolist() == [[[0, 128, 255]]]
    with pytest.raises(PictureError, match="NaN"):
        from_unit(image * float("nan"), np.uint8)


def test_importing_brings_no_torch() -> None:
    code = (
        "import editkit.pictures.picture, editkit.pictures.masks\n"
        "import editkit.pictures.files.writing, editkit.pictures.files.reading\n"
        "import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_depths_convert_both_ways() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(at_depth(at_depth(values, np.uint16), np.uint8), values)
    assert at_depth(np.array([65_535], np.uint16), np.uint8).tolist() == [255]


# ------------------------------------------------------------------------------------------------------- the matrix


# WebP has 8 bits; 16-bit grey with alpha in a TIFF Pillow cannot open.
MATRIX = [
    (format_, dtype, mode)
    for format_ in ("PNG", "TIFF little", "TIFF big", "WEBP")
    for dtype in (np.uint8, np.uint16)
    for mode in ("L", "LA", "RGB", "RGBA")
    if not (dtype == np.uint16 and (format_ == "WEBP" or (mode == "LA" and "TIFF" in format_)))
]


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize(("format_", "dtype", "mode"), MATRIX)
def test_matrix(format_: str, dtype: Any, mode: str, orientation: int, tmp_path: Path) -> None:
    """Upright, of the right size, unmasked pixels identical, depth and mode and metadata kept."""
    wide, count = dtype == np.uint16, {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    upright_pixels = noise(5, 7, count, dtype)
    lying = stored(upright_pixels, orientation)
    path = tmp_path / f"in.{format_[:4].strip().lower()}"
    if format_ == "PNG":
        chunks = [
            png_chunk(b"iCCP", b"x\0\0" + zlib.compress(ICC)),
            png_chunk(b"eXIf", exif(orientation)),
            png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        ]
        path.write_bytes(png_file(lying, *chunks, depth=16 if wide else 8))
    elif format_ == "WEBP":
        image = Image.fromarray(lying[..., 0] if count == 1 else lying)
        image.save(path, lossless=True, exact=True, exif=exif(orientation), icc_profile=ICC, xmp=XMP)
    else:
        path.write_bytes(tiff_file(lying, orientation, "<" if "little" in format_ else ">"))

    picture = Picture.read(path)
    assert picture.size == (7, 5)
    assert picture.pixels.dtype == dtype
    assert np.array_equal(picture.pixels, colours(upright_pixels))
    if count in (2, 4):
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha, upright_pixels[..., -1])
    else:
        assert picture.alpha is None
    if format_ != "WEBP":  # which has neither greyscale nor a depth
        assert picture.meta.mode == mode
        assert picture.meta.bits == dtype().itemsize * 8
    assert picture.meta.icc == ICC
    assert picture.meta.orientation == orientation
    assert picture.meta.dpi is None
    assert not picture.meta.notices

    result, regenerated = edited(picture)
    for ending in (".png", ".tif", ".webp"):
        if ending == ".webp" and wide:
            continue
        back, out = written(result, tmp_path, ending)
        assert back.size == (7, 5)
        assert back.pixels.dtype == dtype
        assert np.array_equal(back.pixels, result.pixels)
        assert np.array_equal(back.pixels[~regenerated], colours(upright_pixels)[~regenerated])
        assert (back.alpha is None) == (picture.alpha is None)
        assert back.alpha is None or np.array_equal(back.alpha, picture.alpha)
        assert back.meta.icc == ICC
        assert back.meta.xmp is not None
        assert b"<dc:creator>me" in back.meta.xmp
        assert not re.search(rb"Orientation>[2-8]<", back.meta.xmp)
        assert back.meta.orientation == 1
        with Image.open(out) as image:
            assert image.getexif().get(0x010F, "").rstrip("\0") == "editkit"
            assert image.getexif().get(0x0112, 1) == 1
        assert b"the old picture" not in out.read_bytes()


@pytest.mark.parametrize("orientation", ALL)
def test_jpeg_orientations(orientation: int, tmp_path: Path) -> None:
    """JPEG cannot be exact, but a smooth ramp tells every orientation from every other."""
    y, x = np.mgrid[0:48, 0:64]
    ramp = np.stack([x * 3, y * 5, (x + y) * 2], axis=2).astype(np.uint8)
    path = tmp_path / "in.jpg"
    Image.fromarray(stored(ramp, orientation)).save(
        path, quality=95, subsampling=0, exif=b"Exif\0\0" + exif(orientation)
    )
    picture = Picture.read(path)
    assert picture.size == (64, 48)
    assert np.abs(picture.pixels.astype(int) - ramp).max() < 12
    back, out = written(picture, tmp_path, ".jpg")
    assert back.size == (64, 48)
    assert np.abs(back.pixels.astype(int) - ramp).max() < 14
    with Image.open(out) as image:
        assert image.getexif()[0x0112] == 1


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_turn_undoes_the_standard(height: int, width: int, orientation: int) -> None:
    array = np.arange(height * width).reshape(height, width)
    assert np.array_equal(apply_orientation(stored(array, orientation), orientation), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("ending", [".png", ".tif"])
@given(height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_lossless_at_any_size(ending: str, dtype: Any, height: int, width: int, channels: int, seed: int) -> None:
    picture = Picture.read(noise(height, width, channels, dtype, seed))
    data, deviation, kept = to_bytes(picture, "PNG" if ending == ".png" else "TIFF", [])
    back = decode(data, "x")
    assert (deviation, kept) == (0, None)
    assert np.array_equal(back.pixels, picture.pixels)
    assert back.alpha is None or np.array_equal(back.alpha, picture.alpha)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 4999)])
@pytest.mark.parametrize("ending", [".png", ".tif", ".webp", ".jpg"])
def test_extreme_sizes(size: tuple[int, int], ending: str, tmp_path: Path) -> None:
    picture = Picture.read(noise(*size, 3, np.uint8))
    back, _ = written(picture, tmp_path, ending)
    assert back.size == picture.size
    assert ending == ".jpg" or np.array_equal(back.pixels, picture.pixels)


def test_many_strips_and_rows(tmp_path: Path) -> None:
    """A TIFF of several strips, and a smooth 16-bit picture for which the PNG filters differ by row."""
    y, x = np.mgrid[0:400, 0:500]
    smooth = np.stack([x * 100, y * 90, (x + y) * 40], axis=2).astype(np.uint16)
    smooth[10:20] = noise(10, 500, 3, np.uint16)
    picture = Picture.read(smooth)
    for ending in (".png", ".tif"):
        back, path = written(picture, tmp_path, ending)
        assert np.array_equal(back.pixels, smooth)
        assert path.stat().st_size < smooth.nbytes / 2
