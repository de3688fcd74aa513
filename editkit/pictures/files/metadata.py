"""The metadata of a picture file, and the parts of it that must change.

EXIF and XMP are copied byte for byte, except for what an edit invalidates: the orientation, which has been applied, and
the embedded thumbnail, which would still show the unedited picture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from editkit.pictures.files.beside import strip_removed_parts, unedited_parts
from editkit.pictures.files.colours import code_points
from editkit.pictures.files.exif import tag_bytes, with_upright_orientation
from editkit.pictures.files.formats import AVIF, HEIF, JPEG, PNG, TIFF, Format
from editkit.pictures.files.jpeg import LONGEST, in_resources, iptc
from editkit.pictures.files.png import png_chunks
from editkit.pictures.files.xmp import upright_xmp, without_provenance

PNG_COLOUR = (b"cICP", b"gAMA", b"cHRM", b"sRGB", b"pHYs")
"""PNG chunks that define how pixels are interpreted; they are copied from PNG to PNG."""

PNG_TEXT = ("Title", "Author", "Description", "Copyright", "Creation Time", "Software", "Source", "Comment")
"""Keywords of the PNG specification, whose texts are kept. Others (another tool's prompt, an older provenance) would
describe the previous picture."""

MAX_TEXT = 65_536
"""Longer PNG texts are not copied."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file.

    Args:
        format: Pillow's name of the format, or None for an array.
        mode: the file's own mode in Pillow's names (1, L, LA, P, RGB, RGBA, CMYK ...), regardless of its depth.
        bits: bits per channel of the file, 8 or 16 (1 counts as 8).
        lossless: whether the file's format kept the pixels exactly.
        icc, exif, xmp: as in the file; EXIF as a TIFF structure, with orientation 1 and without thumbnail.
        iptc: caption, author, copyright of a JPEG or TIFF, as IPTC-NAA records.
        comment: the comment of a JPEG or GIF.
        dpi: horizontal and vertical resolution.
        orientation: the EXIF orientation that has been applied, 1 to 8.
        quantization, subsampling, progressive: how a JPEG was compressed (Pillow's tables and sampling number).
        chunks: PNG chunks to copy unchanged, (type, data).
        text: PNG texts under the specification's keywords.
        notices: messages for the user about changes made while reading.
    """

    format: str | None = None
    mode: str = "RGB"
    bits: int = 8
    lossless: bool = True
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    dpi: tuple[float, float] | None = None
    orientation: int = 1
    quantization: tuple[tuple[int, ...], ...] | None = None
    subsampling: int = 0
    progressive: bool = False
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    text: tuple[tuple[str, str], ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def grey(self) -> bool:
        """Whether the file was greyscale."""
        return self.mode in {"1", "L", "LA", "I"}


# ------------------------------------------------------------------------------- reading from a Pillow image


def describe(
    image: Any, data: bytes, row: Format | None, mode: str, bits: int, orientation: int, name: str
) -> Metadata:
    """Read the metadata of a loaded Pillow image and its file; damaged EXIF becomes a notice."""
    notices: list[str] = []
    xmp = _xmp(image)
    beside = unedited_parts(data if row in (JPEG, AVIF, HEIF) else b"", xmp)
    if beside:
        notices.append(f"{name}: its {' and '.join(beside)} will not be in the result")
        xmp = None if xmp is None else strip_removed_parts(xmp)
    elif data and (others := _count_other_pictures(image)):
        notices.append(f"{name}: only the first of its {1 + others} pictures is read")
    return Metadata(
        format=image.format if row is None else row.name,
        mode=mode,
        bits=bits,
        lossless=row is not None and row.kept(image.info, data),
        icc=image.info.get("icc_profile") or None,
        exif=_exif(image, row, notices, name),
        xmp=xmp,
        iptc=iptc(data) if row is JPEG else _iptc_of_tiff(image, data) if row is TIFF else None,
        comment=_comment(image),
        dpi=_dpi(image, row),
        orientation=orientation,
        quantization=_tables(image, row),
        subsampling=_sampling(image, row),
        progressive=bool(image.info.get("progressive")),
        chunks=_colour_chunks(data, row, image),
        text=_text(image, row),
        notices=tuple(notices),
    )


def _count_other_pictures(image: Any) -> int:
    """Return the number of pictures after the first in a JPEG (stereo, panorama, undefined type), without previews."""
    listed = getattr(image, "mpinfo", {}).get(0xB002, [])[1:]
    return sum("Thumbnail" not in str(entry.get("Attribute", {}).get("MPType")) for entry in listed)


def _exif(image: Any, row: Format | None, notices: list[str], name: str) -> bytes | None:
    """Return EXIF as a TIFF structure with orientation 1 and without thumbnail; damaged EXIF becomes a notice."""
    from PIL import Image

    try:
        if row is TIFF:
            # A TIFF is its own EXIF: tags about the layout of this file must not be copied.
            kept, own = Image.Exif(), image.getexif()
            for tag, value in own.items():
                if tag not in LAYOUT and tag not in (0x8769, 0x8825):
                    kept[tag] = value
            for group in (0x8769, 0x8825):
                directory = own.get_ifd(group)
                if directory:
                    kept.get_ifd(group).update(directory)
                    kept[group] = dict(directory)
            raw = kept.tobytes() if len(kept) else b""
        else:
            raw = image.info.get("exif") or (image.getexif().tobytes() if len(image.getexif()) else b"")
        if not raw:
            return None
        return with_upright_orientation(raw.removeprefix(b"Exif\0\0"))
    except Exception:  # Pillow's EXIF code raises arbitrary errors on damaged bytes
        notices.append(f"{name}: its EXIF is damaged and is left out")
        return None


LAYOUT = frozenset(
    tag
    for first, last in ((254, 259), (262, 266), (273, 284), (290, 297), (301, 301), (317, 341), (347, 347), (512, 532))
    for tag in range(first, last + 1)
) | {700, 33723, 34377, 34675, 37724}
"""TIFF tags that describe the layout of one file; and ICC, XMP, IPTC and Photoshop, which are copied separately or not
at all."""


def _xmp(image: Any) -> bytes | None:
    raw = image.info.get("xmp")
    if isinstance(raw, str):
        raw = raw.encode()
    if not isinstance(raw, bytes) or not raw.strip(b"\0 "):
        return None
    if b"editkit:provenance" in raw:
        raw = without_provenance(raw)  # it describes the previous picture, not the one to be written
    return upright_xmp(raw)


def _iptc_of_tiff(image: Any, data: bytes) -> bytes | None:
    """Return the IPTC records from their own tag or from Photoshop's resources."""
    value, resources = image.tag_v2.get(33723), image.tag_v2.get(34377)
    if not isinstance(value, bytes):  # some writers declare 32-bit words, of which Pillow returns only the first
        value = tag_bytes(data, 33723)
    if value:
        return bytes(value)
    return in_resources(resources) if isinstance(resources, bytes) else None


def _comment(image: Any) -> bytes | None:
    comment = image.info.get("comment")
    known = isinstance(comment, bytes) and 0 < len(comment) <= LONGEST
    return comment if known else None


def _dpi(image: Any, row: Format | None) -> tuple[float, float] | None:
    if row is TIFF and 282 not in image.tag_v2:
        return None  # Pillow returns 1 if the file has no value
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0.0 < x < 1e6 and 0.0 < y < 1e6 else None


def _tables(image: Any, row: Format | None) -> tuple[tuple[int, ...], ...] | None:
    tables = getattr(image, "quantization", None) if row is JPEG else None
    if not tables or any(len(table) != 64 for table in tables.values()):
        return None
    return tuple(tuple(tables[key]) for key in sorted(tables))


def _sampling(image: Any, row: Format | None) -> int:
    """Return Pillow's number for the chroma subsampling: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0."""
    if row is not JPEG:
        return 0
    from PIL import JpegImagePlugin

    return max(0, JpegImagePlugin.get_sampling(image))


def _colour_chunks(data: bytes, row: Format | None, image: Any) -> tuple[tuple[bytes, bytes], ...]:
    """Return the colour information as PNG chunks: those of a PNG, or the code points of an AVIF or HEIC file."""
    if row is PNG:
        return tuple((kind, body) for kind, body in png_chunks(data) if kind in PNG_COLOUR)
    if row in (AVIF, HEIF) and not image.info.get("icc_profile"):
        code = code_points(data)
        return () if code is None else ((b"cICP", code),)
    return ()


def _text(image: Any, row: Format | None) -> tuple[tuple[str, str], ...]:
    if row is not PNG:
        return ()
    texts = getattr(image, "text", {})
    kept = ((key, str(texts[key])) for key in PNG_TEXT if key in texts)
    return tuple((key, text) for key, text in kept if len(text) <= MAX_TEXT and not re.search(r"\0", text))
