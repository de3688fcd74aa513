"""Encode pictures to files, in their original mode and with their metadata.

A result is greyscale if the file was greyscale and the result still is grey, otherwise RGB (a palette is not kept,
because an edit adds colours). Alpha is written if there is one. 16-bit pixels stay 16-bit in PNG and TIFF, and become
8-bit, with a notice, in other formats. PNG and TIFF are exact; WebP is exact unless the picture came from a lossy file
or a quality was requested; JPEG reuses the quantisation tables of the original JPEG.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from editkit.errors import PictureError
from editkit.pictures.files.colours import code_points_take_precedence, interpret_chunks
from editkit.pictures.files.exif import with_size
from editkit.pictures.files.formats import AVIF, JPEG, PNG, TIFF, WEBP, Format, endings, to_write
from editkit.pictures.files.jpeg import LONGEST, with_iptc
from editkit.pictures.files.metadata import LAYOUT, Metadata
from editkit.pictures.files.png import PNG_SIGNATURE, deflated, png_chunk, png_text
from editkit.pictures.files.xmp import sized_xmp
from editkit.pictures.raster import Raster, at_depth

QUALITY = 90
"""Default quality of lossy WebP and AVIF."""

BAND = 64
"""Rows processed at once where a whole picture would need much memory."""

LARGEST = 1 << 30
"""Largest PNG chunk in bytes: its length has 31 bits."""


class Encoded(NamedTuple):
    """A file's bytes, the picture as the format can store it, and whether the file decodes to exactly that."""

    data: bytes
    raster: Raster
    lossless: bool


def encode(
    picture: Raster,
    format: str,
    notices: list[str],
    *,
    text: str | None = None,
    quality: int | None = None,
) -> Encoded:
    """Encode a file. `text`: the provenance to store in it.

    Raises:
        PictureError: the format cannot store the picture.
    """
    row = to_write(format)
    if (limit := row.largest_side) and max(picture.size) > limit:
        raise PictureError(
            f"{row.name} holds at most {limit} pixels per side, the picture is {picture.width}x{picture.height}; "
            f"use {endings(lambda able: able.largest_side is None, 'or')}"
        )
    if quality is not None and not 1 <= quality <= 100:
        raise PictureError(f"quality must be 1 to 100, got {quality}")
    picture = _reduce_to_format(picture, row, notices)
    meta = picture.meta
    if text is not None and not row.own_text:
        meta = _with_provenance(meta, text, row, notices)
    if row.longest is not None:
        meta = _drop_long_metadata(meta, row.title, row.longest, notices)
    picture = replace(picture, meta=meta)
    try:
        if row is PNG:  # the written file is read back before it replaces anything (`writing.to_bytes`)
            data = _png(picture, text)
        elif row is TIFF:
            data = _tiff(picture)
        else:
            data = _by_pillow(picture, row, quality)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises arbitrary errors for metadata of unexpected types
        raise PictureError(f"the picture cannot be encoded as {row.name}: {error or type(error).__name__}") from None
    return Encoded(data, picture, row.is_exact(meta.lossless, quality))


def _reduce_to_format(picture: Raster, row: Format, notices: list[str]) -> Raster:
    """Reduce the picture to what the format can store."""
    if picture.pixels.dtype == np.uint16 and not row.deep:
        deep = endings(lambda able: able.deep)
        notices.append(f"{row.name} stores 8 bits per channel: the picture's 16 are rounded; {deep} keep them")
        alpha = None if picture.alpha is None else at_depth(picture.alpha, np.uint8)
        picture = replace(picture, pixels=at_depth(picture.pixels, np.uint8), alpha=alpha)
    if picture.alpha is not None and not row.alpha:
        if (picture.alpha != 255).any():
            able = endings(lambda able: able.alpha)
            notices.append(f"{row.name} does not support transparency: it is left out; {able} keep it")
        picture = replace(picture, alpha=None)
    if picture.meta.icc is not None:
        space = picture.meta.icc[16:20]
        if space == b"GRAY" and not _writes_grey(picture, row):
            notices.append("the greyscale ICC profile does not fit a colour result and is left out")
            picture = replace(picture, meta=replace(picture.meta, icc=None))
    return replace(picture, meta=_metadata_for(picture, row, notices))


def _metadata_for(picture: Raster, row: Format, notices: list[str]) -> Metadata:
    """Return the metadata of the file (colours, size, caption) in the terms of its format."""
    meta, as_it_was = picture.meta, row is PNG and picture.meta.format == PNG.name
    if meta.icc is not None and not as_it_was and code_points_take_precedence(meta.chunks):
        meta = replace(meta, icc=None)
    means = interpret_chunks(meta.chunks) if meta.icc is None and not as_it_was else None
    if means is not None:
        name, icc = means
        if icc is not None and not _writes_grey(picture, row):
            meta = replace(meta, icc=icc)
            notices.append(f"its colours are {name}; an ICC profile in the file declares them")
        elif row is not PNG:
            notices.append(f"{row.name} cannot declare that its colours are {name}: they will look different; .png can")
    exif = None if meta.exif is None else with_size(meta.exif, picture.size)
    meta = replace(meta, exif=exif, xmp=None if meta.xmp is None else sized_xmp(meta.xmp, picture.size))
    if meta.iptc is not None and (row not in (JPEG, TIFF) or len(meta.iptc) > LONGEST):
        notices.append(f"the caption and author (IPTC) do not fit into {row.name} and are left out; .tif keeps them")
        meta = replace(meta, iptc=None)
    if meta.comment is not None and row is PNG:
        text = meta.comment.strip(b"\0").decode("utf-8", "replace")
        known = any(key == "Comment" for key, _ in meta.text) or "\0" in text
        meta = replace(meta, text=meta.text if known else (*meta.text, ("Comment", text)), comment=None)
    elif meta.comment is not None and row is not JPEG:
        notices.append(f"{row.name} cannot store the file's comment, which is left out; .png and .jpg keep it")
        meta = replace(meta, comment=None)
    return meta


def _writes_grey(picture: Raster, row: Format) -> bool:
    """Whether the picture is written as greyscale."""
    if not picture.meta.grey or not row.grey:
        return False
    if row is TIFF and picture.alpha is not None and picture.pixels.dtype == np.uint16:
        return False  # Pillow cannot open 16-bit grey with alpha in a TIFF
    red, green, blue = (picture.pixels[..., k] for k in range(3))
    return np.array_equal(red, green) and np.array_equal(green, blue)


def _channels(picture: Raster, row: Format) -> NDArray[Any]:
    """Return (H, W, 1 to 4) for the file: grey, grey and alpha, RGB, RGB and alpha."""
    colour = picture.pixels[..., :1] if _writes_grey(picture, row) else picture.pixels
    if picture.alpha is None:
        return colour
    return np.concatenate([colour, picture.alpha[..., None]], axis=2)


def _with_provenance(meta: Metadata, text: str, row: Format, notices: list[str]) -> Metadata:
    """Add the provenance to the XMP if the format can store its length."""
    from editkit.pictures.files.xmp import insert_provenance

    xmp = insert_provenance(meta.xmp, text)
    if row.longest is None or len(xmp) <= row.longest:
        return replace(meta, xmp=xmp)
    what = f"the provenance of {len(text)} bytes"
    notices.append(f"{what} is too long for {row.title} and is left out; .png keeps it")
    return meta


def _drop_long_metadata(meta: Metadata, title: str, longest: int, notices: list[str]) -> Metadata:
    """Drop EXIF or XMP of more than `longest` bytes."""
    if meta.exif is not None and len(meta.exif) > longest:
        notices.append(f"the EXIF of {len(meta.exif)} bytes is too long for {title} and is left out")
        meta = replace(meta, exif=None)
    if meta.xmp is not None and len(meta.xmp) > longest:
        notices.append(f"the XMP of {len(meta.xmp)} bytes is too long for {title} and is left out; .png keeps it")
        meta = replace(meta, xmp=None)
    return meta


def _png(picture: Raster, provenance: str | None) -> bytes:
    """Encode a PNG file."""
    channels = _channels(picture, PNG)
    height, width, count = channels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = png_chunk(b"IHDR", size + bytes([8 * channels.dtype.itemsize, colour_type, 0, 0, 0]))
    packed = deflated(_filter_rows(channels))
    pixels = [png_chunk(b"IDAT", packed[at : at + LARGEST]) for at in range(0, len(packed), LARGEST)]
    meta = picture.meta
    extra = [png_chunk(kind, body) for kind, body in meta.chunks]
    if meta.icc is not None:
        extra = [chunk for chunk in extra if chunk[4:8] != b"sRGB"]  # the two exclude each other
        extra.append(png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(meta.icc, 9)))
    if meta.dpi is not None and not any(kind == b"pHYs" for kind, _ in meta.chunks):
        x, y = (round(value / 0.0254) for value in meta.dpi)
        extra.append(png_chunk(b"pHYs", x.to_bytes(4, "big") + y.to_bytes(4, "big") + b"\1"))
    if meta.exif is not None:
        extra.append(png_chunk(b"eXIf", meta.exif))
    if meta.xmp is not None:
        with contextlib.suppress(UnicodeDecodeError):  # iTXt is UTF-8, as XMP must be in a PNG
            extra.append(png_text("XML:com.adobe.xmp", meta.xmp.decode().strip("\0")))
    extra += [png_text(keyword, text) for keyword, text in meta.text]
    if provenance is not None:
        extra.append(png_text("editkit", provenance))
    return b"".join([PNG_SIGNATURE, header, *extra, *pixels, png_chunk(b"IEND", b"")])


def _filter_rows(channels: NDArray[Any]) -> bytes:
    """Return PNG rows, each with the filter (none, left, above, Paeth's) whose bytes have the smallest sum."""
    height, width, count = channels.shape
    pixel = count * channels.dtype.itemsize
    last = np.zeros((1, width * pixel), np.uint8)
    parts = []
    for at in range(0, height, BAND):  # in bands, so that a large picture does not need ten times its memory
        band = channels[at : at + BAND]
        rows = band.astype(band.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(-1, width * pixel)
        above = np.concatenate([last, rows[:-1]])
        left, above_left = np.zeros_like(rows), np.zeros_like(rows)
        left[:, pixel:], above_left[:, pixel:] = rows[:, :-pixel], above[:, :-pixel]
        options = np.stack([rows, rows - left, rows - above, rows - _paeth(left, above, above_left)])
        # a byte of 255 is a difference of -1: min(b, 256 - b), which unsigned arithmetic gives as min(b, -b)
        best = np.minimum(options, -options).sum(axis=2, dtype=np.int64).argmin(axis=0)
        parts.append(np.column_stack([_FILTERS[best], options[best, np.arange(len(rows))]]).tobytes())
        last = rows[-1:]
    return b"".join(parts)


_FILTERS = np.array([0, 1, 2, 4], np.uint8)
"""PNG's numbers of these filters."""


def _paeth(left: NDArray[np.uint8], above: NDArray[np.uint8], above_left: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paeth's predictor: the one of the three nearest to left + above - above_left (PNG, section 9.4)."""
    a, b, c = (part.astype(np.int16) for part in (left, above, above_left))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, above_left))


# long: a table of tags, one per line
def _tiff(picture: Raster) -> bytes:
    """Encode a little-endian TIFF, Deflate with horizontal differences; EXIF becomes its tags."""
    from PIL import Image
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    channels = _channels(picture, TIFF)
    height, width, count = channels.shape
    bits = channels.dtype.itemsize * 8
    meta = picture.meta
    directory = ImageFileDirectory_v2(prefix=b"II")
    if meta.exif is not None:
        exif = Image.Exif()
        exif.load(meta.exif)
        for tag in exif:
            if tag in _NOT_FROM_EXIF:
                continue
            value = exif.get_ifd(tag) if tag in (0x8769, 0x8825) else exif[tag]
            directory[tag] = value
    rows = max(1, (1 << 18) // (width * count * bits // 8))
    strips = [_strip(channels[at : at + rows]) for at in range(0, height, rows)]
    directory[256], directory[257] = width, height
    directory[258] = (bits,) * count
    directory[259] = 8
    directory[262] = 1 if count < 3 else 2
    directory[274] = 1
    directory[277] = count
    directory[278] = rows
    directory[279] = tuple(len(strip) for strip in strips)
    directory[284] = 1
    directory[317] = 2
    if count in (2, 4):
        directory[338] = 2
    if meta.dpi is not None:
        directory[282], directory[283], directory[296] = meta.dpi[0], meta.dpi[1], 2
    if meta.icc is not None:
        directory[34675] = meta.icc
        directory.tagtype[34675] = 7
    if meta.iptc is not None:
        directory[33723] = meta.iptc
        directory.tagtype[33723] = 7
    if meta.xmp is not None:
        directory[700] = meta.xmp
        directory.tagtype[700] = 1
    # Pillow adds the directory's own length to the offsets, so they count from its end
    starts = np.cumsum([0, *(len(strip) for strip in strips[:-1])])
    directory[273] = tuple(int(start) for start in starts)
    directory.tagtype[273] = 4
    buffer = io.BytesIO()
    directory.save(buffer)
    return buffer.getvalue() + b"".join(strips)


_NOT_FROM_EXIF = LAYOUT - {282, 283, 296, 301, 318, 319, 531, 532}
"""Tags that foreign EXIF may not set in a TIFF, because they describe its pixel layout. The exceptions here are about
resolution and colour.
"""


def _strip(channels: NDArray[Any]) -> bytes:
    """Encode the rows of a TIFF: differences along the row, little-endian, deflated."""
    differences = channels.copy()
    differences[:, 1:] -= channels[:, :-1]
    return deflated(differences.astype(differences.dtype.newbyteorder("<")).tobytes())


def _by_pillow(picture: Raster, row: Format, quality: int | None) -> bytes:
    """Encode JPEG, WebP or AVIF."""
    from PIL import Image, features

    if row is AVIF and not features.check("avif"):
        others = endings(lambda able: able.alpha and able is not AVIF, "or")
        raise PictureError(f"this Pillow was built without AVIF; use {others}")
    channels = _channels(picture, row)
    image = Image.fromarray(np.ascontiguousarray(channels[..., 0] if channels.shape[2] == 1 else channels))
    meta = picture.meta
    options: dict[str, Any] = {}
    if meta.icc is not None:
        options["icc_profile"] = meta.icc
    if meta.exif is not None:
        options["exif"] = b"Exif\0\0" + meta.exif if row is JPEG else meta.exif
    if meta.xmp is not None:
        options["xmp"] = meta.xmp
    if row is JPEG:
        if meta.dpi is not None:
            options["dpi"] = tuple(round(value) for value in meta.dpi)
        options["progressive"] = meta.progressive
        if meta.comment is not None:
            options["comment"] = meta.comment
        if quality is None and meta.quantization is not None:
            options |= {"qtables": meta.quantization, "subsampling": meta.subsampling}
        else:
            options |= {"quality": 95 if quality is None else quality, "subsampling": 0}
    elif row is WEBP:
        lossless = row.is_exact(meta.lossless, quality)
        options |= {"lossless": lossless, "exact": True, "method": 4}
        options["quality"] = 75 if lossless else (quality or QUALITY)
    else:
        options |= {"quality": quality or QUALITY, "subsampling": "4:4:4"}
    buffer = io.BytesIO()
    image.save(buffer, row.name, **options)
    data = buffer.getvalue()
    return data if meta.iptc is None or row is not JPEG else with_iptc(data, meta.iptc)
