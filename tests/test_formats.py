"""The table of file formats is what reading, writing and listing do."""

import io

import numpy as np
import pytest
from PIL import Image, features

from editkit.errors import PictureError
from editkit.pictures.files import formats
from editkit.pictures.files.encoding import encode
from editkit.pictures.files.formats import AVIF, FORMATS, JPEG, PNG, TIFF, WEBP, WRITTEN, Format, of_image, to_write
from editkit.pictures.files.reading import decode
from editkit.pictures.picture import Picture

HERE = [row for row in WRITTEN if row is not AVIF or features.check("avif")]


def picture(channels: int, dtype: type = np.uint8) -> Picture:
    top = np.iinfo(dtype).max
    return Picture.read(np.random.default_rng(0).integers(0, top, (9, 11, channels), dtype=dtype, endpoint=True))


def test_names_and_endings_are_unique_and_lower_case():
    names = [name for row in FORMATS for name in (row.name, *row.also)]
    endings = [ending for row in FORMATS for ending in row.endings]
    assert len(set(names)) == len(names)
    assert len(set(endings)) == len(endings)
    assert all(ending.startswith(".") and ending == ending.lower() for ending in endings)


def test_what_the_table_says_in_words():
    assert formats.readable() == (
        "PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF, PPM, JPEG 2000; HEIC with pillow-heif installed"
    )
    assert formats.endings(lambda row: row.deep) == ".png and .tif"
    assert formats.endings(lambda row: row.largest_side is None, "or") == ".png or .tif"
    assert formats.endings(lambda row: row is PNG) == ".png"
    assert formats.EXACT == (".png", ".webp", ".tif", ".tiff")
    assert set(formats.WRITABLE) < formats.PICTURES


@pytest.mark.parametrize("row", HERE, ids=lambda row: row.name)
def test_a_written_file_is_what_its_row_says(row: Format):
    """Its first bytes, its name by Pillow, what it holds, and whether it is exact."""
    encoded = encode(picture(4, np.uint16), row.name, [])
    assert row.has_signature(encoded.data) or row is AVIF
    assert of_image(Image.open(io.BytesIO(encoded.data)).format) is row
    back = decode(encoded.data, "it")
    assert back.pixels.dtype == (np.uint16 if row.deep else np.uint8)
    assert (back.alpha is not None) == row.alpha
    assert encoded.lossless == row.is_exact(came_exact=True, quality=None)
    if encoded.lossless:
        assert np.array_equal(back.pixels, encoded.raster.pixels)
    assert back.meta.lossless == encoded.lossless


@pytest.mark.parametrize("row", HERE, ids=lambda row: row.name)
def test_grey_stays_one_channel_where_the_row_says_so(row: Format):
    data = encode(Picture.read(picture(3).pixels[..., 0].copy()), row.name, []).data
    assert (Image.open(io.BytesIO(data)).mode == "L") == row.grey


@pytest.mark.parametrize(
    ("row", "came", "quality", "exact"),
    [
        (PNG, False, 50, True),
        (TIFF, False, None, True),
        (WEBP, True, None, True),
        (WEBP, False, None, False),
        (WEBP, True, 90, False),
        (JPEG, True, None, False),
    ],
)
def test_when_a_file_is_exact(row, came, quality, exact):
    assert row.is_exact(came, quality) is exact


@pytest.mark.parametrize("row", [row for row in HERE if row.largest_side], ids=lambda row: row.name)
def test_a_side_that_is_too_long_is_refused_with_formats_that_hold_it(row: Format):
    assert row.largest_side is not None
    long = Picture.read(np.zeros((1, row.largest_side + 1, 3), np.uint8))
    with pytest.raises(PictureError, match=rf"at most {row.largest_side} pixels per side.*use \.png or \.tif"):
        encode(long, row.name, [])


def test_variants_of_several_pictures_and_strangers():
    assert of_image("MPO") is JPEG
    assert of_image("EPS") is None
    assert of_image(None) is None
    assert to_write("webp") is WEBP
    with pytest.raises(PictureError, match="format 'GIF' cannot be written; use one of AVIF, JPEG, PNG, TIFF, WEBP"):
        to_write("GIF")
