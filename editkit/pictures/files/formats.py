"""The file formats: for each its name, its signature, and what it can store.

All code that reads, writes or lists picture files uses this table. Details of one format (a PNG's chunks, a TIFF's
tags, a JPEG's tables) are in the modules that read and write it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from editkit.errors import PictureError

Kept = Callable[[Mapping[str, Any], bytes], bool]
"""(Pillow's info of a file, its bytes) -> whether the file is lossless."""


def _always(info: Mapping[str, Any], data: bytes) -> bool:
    return True


def _never(info: Mapping[str, Any], data: bytes) -> bool:
    return False


def _tiff_kept(info: Mapping[str, Any], data: bytes) -> bool:
    return info.get("compression") not in ("jpeg", "tiff_jpeg", "webp")


def _webp_kept(info: Mapping[str, Any], data: bytes) -> bool:
    """Whether the first frame of a WebP file is lossless (VP8L)."""
    at = 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<L", data, at + 4)
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        # an animation's first frame is inside ANMF, after a header of 16 bytes
        at += 24 if kind == b"ANMF" else 8 + length + length % 2
    return False


def _eight_bits(data: bytes) -> int:
    return 8


def _ppm_depth(data: bytes) -> int:
    found = re.match(rb"P[36]\s+\d+\s+\d+\s+(\d+)\s", re.sub(rb"#[^\r\n]*[\r\n]?", b"", data[:1000]))
    return 16 if found and int(found[1]) > 255 else 8


def _jpeg2000_depth(data: bytes) -> int:
    at = data.find(b"\xff\x4f\xff\x51") + 42  # the first component's depth in the marker SIZ
    return (data[at] & 0x7F) + 1 if 42 <= at < len(data) else 8


def _avif_depth(data: bytes) -> int:
    at = data.find(b"av1C") + 6  # one flag there means more than 8 bits, another 12 bits
    flags = data[at] if 6 <= at < len(data) else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


@dataclass(frozen=True)
class Format:
    """One file format.

    Args:
        name: Pillow's name.
        title: its usual spelling.
        endings: its file suffixes, in lower case, the usual one first.
        also: Pillow's names of variants with several pictures of the same scene; the first is read.
        needs: the package needed to read it.
        marks: signatures as (offset, bytes); any one of them identifies the format.
        kept: whether a given file of this format is lossless.
        depth: the file's bits per channel, from its bytes; Pillow may silently reduce them to 8.
        turned: whether Pillow turns it upright when loading.
        written: whether editkit writes it; the following fields are about writing.
        exact: whether written files decode to exactly the same pixels. "as it came": if the picture's own file was
            lossless and no quality is requested.
        deep: supports 16 bits per channel; OpenCV reads such files too.
        alpha: supports transparency.
        grey: supports greyscale.
        largest_side: most pixels per side.
        longest: most bytes of EXIF or of XMP, rounded down.
        own_text: the provenance is a separate text chunk; in other formats it is part of the XMP.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    also: tuple[str, ...] = ()
    needs: str | None = None
    marks: tuple[tuple[int, bytes], ...] = ()
    kept: Kept = _never
    depth: Callable[[bytes], int] = _eight_bits
    turned: bool = False
    written: bool = False
    exact: Literal["always", "as it came", "never"] = "never"
    deep: bool = False
    alpha: bool = True
    grey: bool = False
    largest_side: int | None = None
    longest: int | None = None
    own_text: bool = False

    def has_signature(self, data: bytes) -> bool:
        """Whether a file with these bytes has the signature of this format."""
        return any(data[at : at + len(mark)] == mark for at, mark in self.marks)

    def is_exact(self, came_exact: bool, quality: int | None) -> bool:
        """Whether a picture is written losslessly. `came_exact`: its own file was lossless."""
        return self.exact == "always" or (self.exact == "as it came" and quality is None and came_exact)


PNG = Format(
    "PNG", "PNG", (".png",), marks=((0, b"\x89PNG"),), kept=_always,
    written=True, exact="always", deep=True, grey=True, own_text=True,
)  # fmt: skip
JPEG = Format(
    "JPEG", "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), also=("MPO",), marks=((0, b"\xff\xd8"),),
    written=True, alpha=False, grey=True, largest_side=65_500, longest=65_000,
)  # fmt: skip
WEBP = Format(
    "WEBP", "WebP", (".webp",), marks=((0, b"RIFF"),), kept=_webp_kept,
    written=True, exact="as it came", largest_side=16_383,
)  # fmt: skip
TIFF = Format(
    "TIFF", "TIFF", (".tif", ".tiff"), marks=((0, b"II*\0"), (0, b"MM\0*")), kept=_tiff_kept, turned=True,
    written=True, exact="always", deep=True, grey=True,
)  # fmt: skip
AVIF = Format("AVIF", "AVIF", (".avif",), depth=_avif_depth, written=True, largest_side=32_768)
HEIF = Format(
    "HEIF", "HEIC", (".heic", ".heif"), needs="pillow-heif",
    marks=tuple((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"mif1", b"msf1", b"hevc")),
)  # fmt: skip
BMP = Format("BMP", "BMP", (".bmp",), kept=_always)
GIF = Format("GIF", "GIF", (".gif",), kept=_always)
PPM = Format("PPM", "PPM", (".ppm", ".pgm", ".pnm"), kept=_always, depth=_ppm_depth)
JPEG2000 = Format("JPEG2000", "JPEG 2000", (".jp2", ".j2k"), depth=_jpeg2000_depth)

FORMATS = (PNG, JPEG, WEBP, TIFF, AVIF, HEIF, BMP, GIF, PPM, JPEG2000)
"""The formats that may be read. Pillow supports more, some of which run other programs (EPS)."""

WRITTEN = tuple(row for row in FORMATS if row.written)

WRITABLE = {ending: row for row in WRITTEN for ending in row.endings}
"""The formats that can be written, by file suffix."""

PICTURES = frozenset(ending for row in FORMATS for ending in row.endings)
"""The suffixes, in lower case, that are taken for pictures; the actual format is found on reading."""

EXACT = tuple(ending for ending, row in WRITABLE.items() if row.is_exact(came_exact=True, quality=None))
"""The suffixes of formats that store a lossless picture losslessly."""

PHOTOGRAPHS = tuple(ending for row in (PNG, JPEG, WEBP, TIFF, BMP) for ending in row.endings)
"""The suffixes of training photographs."""


def of_image(name: str | None) -> Format | None:
    """Return the format that Pillow calls `name`; None if it is not in the table, or without a file."""
    return next((row for row in FORMATS if name == row.name or name in row.also), None)


def to_write(name: str) -> Format:
    """Return the writable format called `name`, in upper or lower case.

    Raises:
        PictureError: it cannot be written; the message lists those that can.
    """
    for row in WRITTEN:
        if row.name == name.upper():
            return row
    known = ", ".join(sorted(row.name for row in WRITTEN))
    raise PictureError(f"format {name!r} cannot be written; use one of {known}")


def endings(able: Callable[[Format], bool], joint: Literal["and", "or"] = "and") -> str:
    """Return the usual suffixes of writable formats that are `able`, for messages: ".png and .tif"."""
    *most, last = [row.endings[0] for row in WRITTEN if able(row)]
    return f"{', '.join(most)} {joint} {last}" if most else last


def readable() -> str:
    """Return the readable formats, for messages."""
    bare = ", ".join(row.title for row in FORMATS if row.needs is None)
    return "; ".join([bare, *(f"{row.title} with {row.needs} installed" for row in FORMATS if row.needs)])
