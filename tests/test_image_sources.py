"""Where pictures come from, and files that are broken, bombs, or none."""

from __future__ import annotations

import errno
import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from toy_files import ALL, ICC, XMP, exif, line, noise, photo, png_file, stored

from editkit.errors import PictureError
from editkit.pictures.files.encoding import encode
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk
from editkit.pictures.files.reading import MAX_PIXELS, decode
from editkit.pictures.files.writing import check_output
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth

__all__ = ["photo"]

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
