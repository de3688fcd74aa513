"""The file formats: one row for each, with its name, how a file of it is recognised, and what it can hold.

Whoever reads, writes or lists picture files asks here. What is special to the bytes of one format (a PNG's chunks, a
TIFF's tags, a JPEG's tables) lies where these are read and written.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from editkit.errors import PictureError

Kept = Callable[[Mapping[str, Any], bytes], bool]
"""(what Pillow says of a file, its bytes) -> whether the file holds its pixels without loss."""


def _always(info: Mapping[str, Any], data: bytes) -> bool:
    return True


def _never(info: Mapping[str, Any], data: bytes) -> bool:
    return False


def _tiff_kept(info: Mapping[str, Any], data: bytes) -> bool:
    return info.get("compression") not in ("jpeg", "tiff_jpeg", "webp")


def _webp_kept(info: Mapping[str, Any], data: bytes) -> bool:
    """True for a WebP file whose first frame is coded without loss (VP8L)."""
    at = 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<L", data, at + 4)
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        # an animation's first frame lies inside ANMF, behind 16 bytes of its own
        at += 24 if kind == b"ANMF" else 8 + length + length % 2
    return False


def _eight(data: bytes) -> int:
    return 8


def _ppm_depth(data: bytes) -> int:
    found = re.match(rb"P[36]\s+\d+\s+\d+\s+(\d+)\s", re.sub(rb"#[^\r\n]*[\r\n]?", b"", data[:1000]))
    return 16 if found and int(found[1]) > 255 else 8


def _jpeg2000_depth(data: bytes) -> int:
    at = data.find(b"\xff\x4f\xff\x51") + 42  # the first component's depth in the marker SIZ
    return (data[at] & 0x7F) + 1 if 42 <= at < len(data) else 8


def _avif_depth(data: bytes) -> int:
    at = data.find(b"av1C") + 6  # of the flags there, one says more than 8 bits and one 12
    flags = data[at] if 6 <= at < len(data) else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


@dataclass(frozen=True)
class Format:
    """One file format.

    Args:
        name: Pillow's.
        title: how people write it.
        endings: the endings of its files' names, in lower case, the usual one first.
        also: Pillow's names of its variants that hold several pictures of the same scene; the first is read.
        needs: the package without which it is not read.
        marks: (offset, bytes) at the beginning of a file; any one of them identifies the format.
        kept: whether a file of this format holds its pixels without loss, from the file's bytes.
        depth: bits per channel of a file that Pillow silently gives as 8, from the file's bytes.
        turned: Pillow turns it upright while it loads it.
        written: whether editkit writes it; what follows is about that.
        exact: whether what is written decodes to exactly the same pixels. "as it came": where the picture's own file
            was lossless and no quality is asked for.
        deep: 16 bits a channel, where the picture has them; such a file is read by OpenCV, too.
        alpha: transparency.
        grey: one channel of colour, where the picture is grey.
        largest_side: the most pixels a side.
        longest: the most bytes of EXIF or of XMP, rounded down.
        own_text: the provenance is a text chunk of its own; in other formats it is a part of the XMP.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    also: tuple[str, ...] = ()
    needs: str | None = None
    marks: tuple[tuple[int, bytes], ...] = ()
    kept: Kept = _never
    depth: Callable[[bytes], int] = _eight
    turned: bool = False
    written: bool = False
    exact: Literal["always", "as it came", "never"] = "never"
    deep: bool = False
    alpha: bool = True
    grey: bool = False
    largest_side: int | None = None
    longest: int | None = None
    own_text: bool = False

    def begins(self, data: bytes) -> bool:
        """Whether a file with these bytes begins as one of this format."""
        return any(data[at : at + len(mark)] == mark for at, mark in self.marks)

    def is_exact(self, came_exact: bool, quality: int | None) -> bool:
        """Whether a picture is written without loss: one that `came_exact` or not, in the `quality` asked for."""
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
"""What may be read. Pillow knows more, some of which runs other programs (EPS)."""

WRITTEN = tuple(row for row in FORMATS if row.written)

WRITABLE = {ending: row for row in WRITTEN for ending in row.endings}
"""What can be written, by the name's ending."""

PICTURES = frozenset(ending for row in FORMATS for ending in row.endings)
"""The endings, in lower case, of what is taken for a picture; what it really is shows when it is read."""

EXACT = tuple(ending for ending, row in WRITABLE.items() if row.is_exact(came_exact=True, quality=None))
"""The endings of what a picture that came without loss is written to without loss."""

PHOTOGRAPHS = tuple(ending for row in (PNG, JPEG, WEBP, TIFF, BMP) for ending in row.endings)
"""The endings of what is learned from."""


def of_image(name: str | None) -> Format | None:
    """The row of what Pillow calls `name`; None for one that is not in the table, or for no file at all."""
    return next((row for row in FORMATS if name == row.name or name in row.also), None)


def to_write(name: str) -> Format:
    """The row of a format called `name`, in any case, to write a picture as.

    Raises:
        PictureError: it cannot be written; says what can.
    """
    for row in WRITTEN:
        if row.name == name.upper():
            return row
    known = ", ".join(sorted(row.name for row in WRITTEN))
    raise PictureError(f"format {name!r} cannot be written; use one of {known}")


def endings(able: Callable[[Format], bool], joint: Literal["and", "or"] = "and") -> str:
    """The usual endings of the formats that can be written and are `able`, for messages: ".png and .tif"."""
    *most, last = [row.endings[0] for row in WRITTEN if able(row)]
    return f"{', '.join(most)} {joint} {last}" if most else last


def readable() -> str:
    """What can be read, in words."""
    bare = ", ".join(row.title for row in FORMATS if row.needs is None)
    return "; ".join([bare, *(f"{row.title} with {row.needs} installed" for row in FORMATS if row.needs)])
