"""Lossy formats, and what travels beside the pixels: EXIF, XMP, profiles, texts."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_files import edited, exif, noise, png_file

from editkit.pictures.files.exif import with_upright_orientation
from editkit.pictures.files.png import png_chunk
from editkit.pictures.files.reading import decode
from editkit.pictures.files.xmp import upright_xmp
from editkit.pictures.picture import Picture

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
    after = with_upright_orientation(before)
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
