"""Palettes, colour keys, planes, depths, profiles: what is read as what, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from toy_files import ICC, XMP, colours, edited, exif, noise, png_file, stored, tiff_file, written

from editkit.errors import PictureError
from editkit.pictures.files.png import png_chunk
from editkit.pictures.files.reading import decode
from editkit.pictures.picture import Picture

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


@pytest.mark.parametrize(("kind", "told"), [(b"\0\0\0", True), (b"\2\0\2", True), (b"\1\0\1", False)])
def test_pictures_behind_a_jpeg_are_told_but_for_previews(tmp_path: Path, kind: bytes, told: bool) -> None:
    """Of no said kind, as Pillow writes them; two eyes; a large thumbnail."""
    frames = [Image.new("RGB", (16, 16), (k, 0, 0)) for k in (0, 200)]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    data = (tmp_path / "a.jpg").read_bytes()
    second = data.index(b"\0\0\3\0", data.index(b"MPF\0II") + 40) + 16  # behind that of the first picture
    picture = decode(data[:second] + kind + data[second + 3 :], "a.jpg")
    assert ("only the first of its 2 pictures is read" in " ".join(picture.meta.notices)) == told


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
