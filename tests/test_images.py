"""Pictures in, pictures out: format x depth x mode x orientation x alpha, metadata, all that can be wrong."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, features

import editkit.pictures.files.writing
from editkit.errors import PictureError
from editkit.pictures.files.decoding import turn
from editkit.pictures.files.encoding import encode
from editkit.pictures.files.exif import upright
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk, png_chunks
from editkit.pictures.files.reading import MAX_PIXELS, decode
from editkit.pictures.files.writing import check_output, to_bytes
from editkit.pictures.files.xmp import upright_xmp
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.tensors import STRIP, from_unit, to_unit

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
    assert np.array_equal(turn(stored(array, orientation), orientation), array)


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


# -------------------------------------------------------------------------------------------- modes and special files


def test_palette_becomes_rgb_with_the_same_colours(tmp_path: Path) -> None:
    image = Image.fromarray(noise(6, 9, 3, np.uint8)).quantize(16)
    image.save(tmp_path / "p.png")
    picture = Picture.read(tmp_path / "p.png")
    assert picture.meta.mode == "P"
    assert np.array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    assert picture.alpha is None
    back, _ = written(picture, tmp_path, ".png")
    assert np.array_equal(back.pixels, picture.pixels)
    image.save(tmp_path / "t.png", transparency=3)
    transparent = Picture.read(tmp_path / "t.png")
    assert transparent.alpha is not None
    assert np.array_equal(transparent.alpha == 0, np.asarray(image) == 3)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("count", [1, 3])
def test_colour_key_becomes_alpha(depth: int, count: int) -> None:
    dtype = np.uint16 if depth == 16 else np.uint8
    array = noise(4, 5, count, dtype)
    key = struct.pack(f">{count}H", *array[2, 3].tolist())
    picture = decode(png_file(array, png_chunk(b"tRNS", key), depth=depth), "x")
    assert picture.alpha is not None
    assert np.array_equal(picture.pixels, colours(array))
    assert np.array_equal(picture.alpha == 0, (array == array[2, 3]).all(axis=2))


def test_bilevel_and_greyscale_stay_grey_while_the_result_is(tmp_path: Path) -> None:
    Image.fromarray(noise(5, 6, 1, np.uint8)[..., 0] > 99).save(tmp_path / "1.png")
    picture = Picture.read(tmp_path / "1.png")
    assert set(np.unique(picture.pixels)) == {0, 255}
    picture.write(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L"
    edited(picture)[0].write(tmp_path / "colour.png")
    with Image.open(tmp_path / "colour.png") as image:
        assert image.mode == "RGB"
    picture.write(tmp_path / "grey.jpg")
    with Image.open(tmp_path / "grey.jpg") as image:
        assert image.mode == "L"


def test_grey_profile_is_not_put_on_colour(tmp_path: Path) -> None:
    grey = ICC[:16] + b"GRAY" + ICC[20:]
    picture = Picture.read(noise(5, 6, 1, np.uint8))
    from dataclasses import replace

    picture = replace(picture, meta=replace(picture.meta, icc=grey))
    assert not picture.write(tmp_path / "a.png").notices
    coloured = edited(picture)[0].write(tmp_path / "b.png")
    assert "ICC" in coloured.notices[0]
    assert Picture.read(tmp_path / "b.png").meta.icc is None


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
def test_cmyk_is_converted_with_a_notice(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"in{ending}"
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(path)
    picture = Picture.read(path)
    assert picture.meta.mode == "CMYK"
    assert "CMYK" in picture.meta.notices[0]
    assert picture.pixels[0, 0, 0] > 200
    assert picture.pixels[0, 0, 1] < 60
    back, _ = written(picture, tmp_path, ".png")
    assert back.meta.mode == "RGB"


def test_first_frame_with_a_notice(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (k, 0, 0)) for k in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = Picture.read(tmp_path / "a.gif")
    assert "first of its 2 frames" in picture.meta.notices[0]
    assert picture.pixels.max() < 10


def test_planes_apart_are_read_in_eight_bits_and_refused_in_sixteen() -> None:
    """Pillow and OpenCV both make noise of the latter."""
    array = noise(5, 7, 3, np.uint8)
    assert np.array_equal(decode(tiff_file(array, 1, "<", planar=True), "x").pixels, array)
    with pytest.raises(PictureError, match="separate planes"):
        decode(tiff_file(noise(5, 7, 3, np.uint16), 1, "<", planar=True), "x")


def test_sixteen_bits_that_opencv_reads_otherwise_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    array = noise(5, 7, 3, np.uint16)
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: noise(5, 7, 3, np.uint16, seed=9))
    picture = decode(png_file(array), "a.png")
    assert np.array_equal(picture.pixels, array >> 8)
    assert "8 are kept" in picture.meta.notices[0]


def test_depths_that_are_cut_are_told(tmp_path: Path) -> None:
    """PPM and JPEG 2000 in 16 bits, CMYK in 16 bits: read in 8, never without a word."""
    array = noise(5, 7, 3, np.uint16)
    ppm = b"P6 # made here\n7 5\n65535\n" + array.astype(">u2").tobytes()
    assert "16 bits" in decode(ppm, "x").meta.notices[0]
    assert not decode(b"P6\n7 5\n255\n" + noise(5, 7, 3, np.uint8).tobytes(), "x").meta.notices
    cmyk = bytearray(tiff_file(noise(5, 7, 4, np.uint16), 1, "<"))
    at = cmyk.find(struct.pack("<HHLH", 262, 3, 1, 2)) + 8
    cmyk[at] = 5
    at = cmyk.find(struct.pack("<HHLH", 338, 3, 1, 2))
    cmyk[at : at + 2] = struct.pack("<H", 337)  # no extra sample after all, but a target printer
    told = decode(bytes(cmyk), "x").meta.notices
    assert any("CMYK" in notice for notice in told)
    assert any("8 are kept" in notice for notice in told)
    Image.fromarray(noise(40, 40, 3, np.uint8)).save(tmp_path / "a.jp2")
    jp2 = bytearray((tmp_path / "a.jp2").read_bytes())
    assert not decode(bytes(jp2), "x").meta.notices


def test_float_and_deep_integers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((3, 3), 70_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(PictureError, match="floating"):
        Picture.read(tmp_path / "f.tif")
    with pytest.raises(PictureError, match="70000"):
        Picture.read(tmp_path / "i.tif")


def test_bmp_jpeg2000_ppm_are_read(tmp_path: Path) -> None:
    array = noise(5, 7, 3, np.uint8)
    for ending in (".bmp", ".ppm"):
        Image.fromarray(array).save(tmp_path / f"a{ending}")
        assert np.array_equal(Picture.read(tmp_path / f"a{ending}").pixels, array)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_both_ways(tmp_path: Path) -> None:
    y, x = np.mgrid[0:48, 0:64]
    ramp = np.stack([x * 3, y * 5, x + y], axis=2).astype(np.uint8)
    Image.fromarray(stored(ramp, 6)).save(tmp_path / "a.avif", quality=95, subsampling="4:4:4", exif=exif(6), xmp=XMP)
    picture = Picture.read(tmp_path / "a.avif")
    assert picture.size == (64, 48)
    assert np.abs(picture.pixels.astype(int) - ramp).max() < 12
    result = picture.write(tmp_path / "b.avif")
    assert 0 < result.deviation < 30
    assert Picture.read(tmp_path / "b.avif").size == (64, 48)


# ------------------------------------------------------------------------------------------------------- lossy formats


def test_jpeg_quality_is_taken_over_and_the_deviation_told(tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:96]
    ramp = np.stack([x * 2, y * 3, x + y], axis=2).astype(np.uint8)
    ramp[20:30, 20:30] = noise(10, 10, 3, np.uint8)
    for quality, subsampling, progressive in ((30, 2, True), (88, 1, False), (97, 0, False)):
        path = tmp_path / f"{quality}.jpg"
        Image.fromarray(ramp).save(
            path, quality=quality, subsampling=subsampling, progressive=progressive, dpi=(300, 300)
        )
        picture = Picture.read(path)
        result, regenerated = edited(picture)
        told = result.write(tmp_path / f"{quality}.out.jpg")
        back = Picture.read(tmp_path / f"{quality}.out.jpg")
        assert back.meta.quantization == picture.meta.quantization
        assert back.meta.subsampling == subsampling
        assert back.meta.progressive == progressive
        assert back.meta.dpi == (300.0, 300.0)
        difference = np.abs(back.pixels.astype(int) - result.pixels.astype(int)).max(axis=2)
        assert told.deviation == difference.max()
        assert told.kept_deviation == difference[~regenerated].max()


def test_webp_is_lossy_only_where_the_picture_was(tmp_path: Path) -> None:
    array = noise(20, 20, 3, np.uint8)
    Image.fromarray(array).save(tmp_path / "lossy.webp", quality=50)
    Image.fromarray(array).save(tmp_path / "exact.webp", lossless=True)
    assert Picture.read(tmp_path / "lossy.webp").write(tmp_path / "a.webp").deviation > 0
    assert Picture.read(tmp_path / "exact.webp").write(tmp_path / "b.webp").deviation == 0
    assert Picture.read(tmp_path / "exact.webp").write(tmp_path / "c.webp", quality=20).deviation > 0


def test_notices_of_what_a_format_cannot_hold(tmp_path: Path) -> None:
    picture = Picture.read(noise(6, 6, 4, np.uint16))
    told: list[str] = []
    written_ = picture.write(tmp_path / "a.jpg", on_notice=told.append)
    assert list(written_.notices) == told
    assert any("8 bits" in notice for notice in told)
    assert any("transparency" in notice for notice in told)


def test_long_metadata_does_not_break_jpeg(tmp_path: Path) -> None:
    from dataclasses import replace

    picture = Picture.read(noise(6, 6, 3, np.uint8))
    meta = replace(picture.meta, exif=exif(1, thumbnail=b"x" * 70_000), xmp=b"y" * 70_000)
    notices = replace(picture, meta=meta).write(tmp_path / "a.jpg").notices
    assert len(notices) == 2


def test_png_colour_chunks_dpi_and_texts_travel(tmp_path: Path) -> None:
    gamma = png_chunk(b"gAMA", struct.pack(">L", 45_455))
    said = png_chunk(b"tEXt", b"Copyright\0me") + png_chunk(b"tEXt", b"parameters\0another tool's prompt")
    picture = Picture.read(io.BytesIO(png_file(noise(3, 3, 3, np.uint16), gamma, said)))
    picture.write(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert image.text == {"Copyright": "me"}
    Image.fromarray(noise(3, 3, 3, np.uint8)).save(tmp_path / "b.jpg", dpi=(300, 300))
    Picture.read(tmp_path / "b.jpg").write(tmp_path / "b.png")
    assert Picture.read(tmp_path / "b.png").meta.dpi == pytest.approx((300, 300), abs=0.02)
    Picture.read(tmp_path / "b.jpg").write(tmp_path / "b.tif")
    assert Picture.read(tmp_path / "b.tif").meta.dpi == pytest.approx((300, 300), abs=0.02)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_patched_in_place(order: str) -> None:
    before = exif(6, order)
    after = upright(before)
    assert len(after) == len(before)
    assert after == exif(1, order, bytes(15)).replace(
        struct.pack(order + "L", 8 + 2 + 24 + 4) + struct.pack(order + "H", 2),
        struct.pack(order + "L", 0) + struct.pack(order + "H", 2),
    )


def test_exif_camera_settings_survive_every_format(tmp_path: Path) -> None:
    """The sub-directories (exposure, GPS) as well, from each format to each other."""
    tags = Image.Exif()
    tags[0x0110] = "a camera"
    tags.get_ifd(0x8769)[0x829A] = 0.01
    tags.get_ifd(0x8825)[1] = "N"
    tags[0x0112] = 1
    endings = [".png", ".jpg", ".webp", ".tif"]
    for first in endings:
        source = tmp_path / f"in{first}"
        Image.fromarray(noise(8, 8, 3, np.uint8)).save(source, exif=tags.tobytes())
        for second in endings:
            out = tmp_path / f"out{first[1:]}{second}"
            Picture.read(source).write(out)
            with Image.open(out) as image:
                back = image.getexif()
                assert back[0x0110].rstrip("\0") == "a camera", (first, second)
                assert float(back.get_ifd(0x8769)[0x829A]) == pytest.approx(0.01), (first, second)
                assert back.get_ifd(0x8825)[1].rstrip("\0") == "N", (first, second)


def test_damaged_exif_is_left_out_with_a_notice() -> None:
    picture = decode(png_file(noise(3, 3, 3, np.uint8), png_chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"), depth=8), "x.png")
    assert picture.meta.exif is None
    assert "EXIF is damaged" in picture.meta.notices[0]


def test_xmp_thumbnails_go() -> None:
    xmp = b'<a tiff:Orientation="8"><xmp:Thumbnails>old\npicture</xmp:Thumbnails></a>'
    assert upright_xmp(xmp) == b'<a tiff:Orientation="1"></a>'


# ------------------------------------------------------------------------------------------------ sources and changes


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = noise(4, 6, 3, np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file, Image.open(tmp_path / "a.png") as image:
        for source in (str(tmp_path / "a.png"), tmp_path / "a.png", file, image, array, Picture.read(array)):
            assert np.array_equal(Picture.read(source).pixels, array)
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        assert Picture.read(noise(4, 6, channels, np.uint8)).meta.mode == mode
    assert Picture.read(array[..., 0]).size == (6, 4)

    class Stream(io.StringIO):
        buffer = io.BytesIO((tmp_path / "a.png").read_bytes())

    monkeypatch.setattr(sys, "stdin", Stream())
    assert np.array_equal(Picture.read("-").pixels, array)


@pytest.mark.parametrize("orientation", ALL)
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp"])
def test_pillow_images_are_turned_and_keep_their_metadata(ending: str, orientation: int, tmp_path: Path) -> None:
    y, x = np.mgrid[0:16, 0:32]
    ramp = np.stack([x * 7, y * 15, x + y], axis=2).astype(np.uint8)
    path = tmp_path / f"a{ending}"
    said = b"Exif\0\0" + exif(orientation)
    Image.fromarray(stored(ramp, orientation)).save(path, exif=said, icc_profile=ICC)
    with Image.open(path) as image:
        picture, same = Picture.read(image), Picture.read(path)
    assert picture.size == (32, 16)
    assert np.array_equal(picture.pixels, same.pixels)
    assert picture.meta.icc == ICC
    assert picture.meta.quantization == same.meta.quantization
    assert Picture.read(Image.fromarray(ramp)).meta.format is None


def test_a_broken_pillow_image_is_a_clean_error(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 40, 3, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(PictureError, match="truncated"):
        Picture.read(image)


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 3, 3)), np.zeros((3, 3, 5), np.uint8), np.zeros((3,), np.uint8), np.zeros((0, 3, 3), np.uint8)],
)
def test_arrays_that_are_no_pictures(array: NDArray[Any]) -> None:
    with pytest.raises(PictureError):
        Picture.read(array)


def test_picture_checks_its_parts() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(PictureError, match="alpha"):
        Picture(pixels, np.zeros((4, 6), np.uint16))
    with pytest.raises(PictureError, match="mask"):
        Picture(pixels).with_mask(np.zeros((6, 4)))
    with pytest.raises(PictureError, match="pixels"):
        Picture(pixels[..., 0])


def test_with_pixels_takes_alpha_along() -> None:
    picture = Picture.read(noise(4, 6, 4, np.uint8)).with_mask(np.ones((4, 6)))
    same = picture.with_pixels(np.zeros((4, 6, 3), np.uint16))
    assert same.alpha is not None
    assert np.array_equal(same.alpha, at_depth(picture.alpha, np.uint16))  # type: ignore[arg-type]
    assert same.mask is not None
    larger = picture.with_pixels(np.zeros((8, 12, 3), np.uint8))
    assert larger.alpha is not None
    assert larger.alpha.shape == (8, 12)
    assert larger.mask is None
    full = Picture.read(np.full((4, 6, 4), 255, np.uint8)).with_pixels(np.zeros((9, 5, 3), np.uint8))
    assert full.alpha is not None
    assert (full.alpha == 255).all()


def test_opaque_where() -> None:
    alpha = np.array([[0, 255], [128, 0]], np.uint8)
    picture = Picture(np.zeros((2, 2, 3), np.uint8), alpha)
    half = picture.opaque_where(np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert half.alpha is not None
    assert half.alpha.tolist() == [[255, 255], [128, 0]]
    assert picture.opaque_where(np.ones((2, 2))).alpha is None


# ------------------------------------------------------------------------------------------------------------ bad input


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


def test_missing_file_suggests_a_near_name(photo: Path) -> None:
    with pytest.raises(PictureError) as error:
        Picture.read(photo.with_name("Phto.PNG"))
    assert f"did you mean {photo}" in line(error)
    with pytest.raises(PictureError) as error:
        Picture.read(photo.parent / "nowhere" / "a.png")
    assert "nowhere does not exist" in line(error)


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    for name, data, words in (
        ("empty.png", b"", "zero bytes"),
        ("text.png", b"hello, this is text", "is not a picture"),
        ("page.pdf", b"%PDF-1.4", "is not a picture"),
        ("draw.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
        ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(50), "pillow-heif"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PictureError) as error:
            Picture.read(tmp_path / name)
        assert words in line(error)
        assert name in line(error)
    with pytest.raises(PictureError) as error:
        Picture.read(tmp_path)
    assert "is a folder" in line(error)
    with pytest.raises(PictureError) as error:
        Picture.read("/dev/zero")
    assert "is a device" in line(error)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", ".gif", ".bmp", ".16.png", ".16.tif"])
def test_truncated_files(ending: str, tmp_path: Path) -> None:
    whole = tmp_path / f"whole{ending}"
    if "16" in ending:
        Picture.read(noise(40, 40, 3, np.uint16)).write(whole)
    else:
        Image.fromarray(noise(40, 40, 3, np.uint8)).save(whole)
    data = whole.read_bytes()
    for part in (0.05, 0.5, 0.9):
        (tmp_path / f"cut{ending}").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(PictureError) as error:
            Picture.read(tmp_path / f"cut{ending}")
        assert "truncated" in line(error) or "not a picture" in line(error)


def test_decompression_bombs(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    for width, height in ((side, side), (2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1)):
        header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
        data = (
            PNG_SIGNATURE
            + png_chunk(b"IHDR", header)
            + png_chunk(b"IDAT", zlib.compress(bytes(999)))
            + png_chunk(b"IEND", b"")
        )
        with pytest.raises(PictureError) as error:
            decode(data, "bomb.png")
        assert f"{MAX_PIXELS:,}" in line(error)


def test_text_and_profile_bombs_stay_small() -> None:
    bomb = zlib.compress(bytes(80_000_000), 9)
    for chunk in (png_chunk(b"zTXt", b"Comment\0\0" + bomb), png_chunk(b"iCCP", b"x\0\0" + bomb)):
        try:
            picture = decode(png_file(noise(3, 3, 3, np.uint8), chunk, depth=8), "bomb.png")
        except PictureError:
            continue
        assert sum(len(text) for _, text in picture.meta.text) < 100_000
        assert len(picture.meta.icc or b"") < 2_000_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(photo: Path) -> None:
    photo.chmod(0)
    with pytest.raises(PictureError, match="no permission"):
        Picture.read(photo)
    photo.parent.chmod(0o500)
    with pytest.raises(PictureError, match="no permission"):
        check_output(photo.parent / "out.png")
    photo.parent.chmod(0o700)


def test_no_permission_is_named(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PictureError, match="no permission"):
        Picture.read(photo)


SEEDS: dict[str, bytes] = {}


def _seeds() -> dict[str, bytes]:
    if not SEEDS:
        for format_ in ("PNG", "TIFF", "JPEG", "WEBP"):
            from dataclasses import replace

            picture = Picture.read(noise(9, 11, 3, np.uint8))
            meta = replace(picture.meta, icc=ICC[:300], exif=exif(3), xmp=XMP, lossless=format_ != "WEBP")
            SEEDS[format_] = encode(replace(picture, meta=meta), format_, [])[0]
        SEEDS["PNG16"] = encode(Picture.read(noise(9, 11, 4, np.uint16)), "PNG", [])[0]
        SEEDS["TIFF16"] = encode(Picture.read(noise(9, 11, 3, np.uint16)), "TIFF", [])[0]
    return SEEDS


@pytest.mark.parametrize("seed", ["PNG", "TIFF", "JPEG", "WEBP", "PNG16", "TIFF16"])
@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files_are_read_or_refused_cleanly(seed: str, data: st.DataObject) -> None:
    """No crash but the clean error, and nothing larger than the bound."""
    file = bytearray(_seeds()[seed])
    for _ in range(data.draw(st.integers(1, 6))):
        # metadata and headers lie at both ends: the middle is pixels
        at = data.draw(st.integers(0, len(file) - 1) | st.integers(0, min(400, len(file) - 1)))
        match data.draw(st.integers(0, 3)):
            case 0 | 1:
                file[at] = data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
            case 2:
                del file[at : at + data.draw(st.integers(1, 20))]
            case _:
                file[at:at] = data.draw(st.binary(min_size=1, max_size=12))
        if not file:
            file = bytearray(b"\0")
    told = ""
    try:
        picture = decode(bytes(file), "mutated")
        assert picture.width * picture.height <= MAX_PIXELS
    except PictureError as error:
        told = str(error)
    assert "\n" not in told


# --------------------------------------------------------------------------------------------------------------- output


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_existing_output_needs_force(photo: Path) -> None:
    before = photo.read_bytes()
    picture = Picture.read(noise(3, 3, 3, np.uint8))
    with pytest.raises(PictureError) as error:
        picture.write(photo)
    assert "--force" in line(error)
    assert photo.read_bytes() == before
    photo.chmod(0o640)
    picture.write(photo, force=True)
    assert Picture.read(photo).size == (3, 3)
    assert photo.stat().st_mode & 0o777 == 0o640
    assert names(photo.parent) == {"photo.png"}


def test_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.png"
    monkeypatch.setattr(editkit.pictures.files.writing, "check_output", lambda path, force: "PNG")
    out.write_bytes(b"someone else's")
    with pytest.raises(PictureError, match="exists already"):
        Picture.read(noise(3, 3, 3, np.uint8)).write(out)
    assert out.read_bytes() == b"someone else's"
    assert names(tmp_path) == {"out.png"}


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    Picture.read(noise(3, 3, 3, np.uint8)).write(tmp_path / "out.png")
    assert names(tmp_path) == {"out.png"}


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "null.png").symlink_to("/dev/null")
    for path, words in (
        (tmp_path / "out", "no ending"),
        (tmp_path / "out.xyz", ".xyz"),
        (tmp_path / "none" / "out.png", "no such folder"),
        (tmp_path / "file" / "out.png", "not a folder"),
        (tmp_path / "null.png", "not a regular file"),
        (tmp_path / ("n" * 270 + ".png"), "cannot be written"),
    ):
        with pytest.raises(PictureError) as error:
            Picture.read(noise(3, 3, 3, np.uint8)).write(path, force=True)
        assert words in line(error).replace("Not a directory", "not a folder")
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(PictureError, match="is a folder"):
        check_output(tmp_path / "dir.png")
    assert names(tmp_path) == {"file", "null.png", "dir.png"}


@pytest.mark.parametrize("force", [False, True])
def test_full_disk_leaves_the_old_file_and_no_temporary(
    force: bool, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = photo.read_bytes()
    out = photo if force else photo.with_name("new.png")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PictureError) as error:
        Picture.read(noise(3, 3, 3, np.uint8)).write(out, force=force)
    assert "No space left" in line(error)
    assert names(photo.parent) == {"photo.png"}
    assert photo.read_bytes() == before


def test_symbolic_links_are_written_through(photo: Path) -> None:
    link = photo.with_name("link.png")
    link.symlink_to(photo.name)
    Picture.read(noise(3, 3, 3, np.uint8)).write(link, force=True)
    assert link.is_symlink()
    assert Picture.read(photo).size == (3, 3)


def test_standard_output(photo: Path) -> None:
    code = "from editkit.pictures.picture import Picture; Picture.read('-').write('-', format='TIFF')"
    done = subprocess.run([sys.executable, "-c", code], input=photo.read_bytes(), capture_output=True, check=True)
    assert np.array_equal(decode(done.stdout, "x").pixels, Picture.read(photo).pixels)


def test_too_large_for_the_format(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="16383"):
        Picture.read(np.zeros((1, 16_384, 3), np.uint8)).write(tmp_path / "a.webp")
    with pytest.raises(PictureError, match="quality"):
        Picture.read(np.zeros((1, 4, 3), np.uint8)).write(tmp_path / "a.webp", quality=0)
    assert not names(tmp_path)


def test_same_picture_same_bytes() -> None:
    for format_ in ("PNG", "TIFF", "JPEG", "WEBP"):
        picture = Picture.read(noise(30, 40, 3, np.uint8))
        assert encode(picture, format_, [])[0] == encode(picture, format_, [])[0]


def test_png_is_one_that_others_accept() -> None:
    """Chunks in the standard's order, and OpenCV sees the same 16 bits."""
    import cv2

    array = noise(9, 8, 3, np.uint16)
    from dataclasses import replace

    picture = Picture.read(array)
    picture = replace(picture, meta=replace(picture.meta, icc=ICC, exif=exif(1), xmp=XMP, dpi=(72.0, 72.0)))
    data = encode(picture, "PNG", [])[0]
    kinds = [kind for kind, _ in png_chunks(data)]
    assert kinds == [b"IHDR", b"iCCP", b"pHYs", b"eXIf", b"iTXt", b"IDAT", b"IEND"]
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1], array)
    tiff = encode(picture, "TIFF", [])[0]
    assert np.array_equal(cv2.imdecode(np.frombuffer(tiff, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1], array)
