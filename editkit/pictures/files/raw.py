"""Camera raw files, and TIFFs whose first page is a thumbnail: refuse them.

A reader that does not know the raw format takes the file for a TIFF, and its thumbnail in the first directory for the
photograph.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from editkit.errors import PictureError

MAKERS = {
    "Adobe": ".dng", "Canon": ".cr2 .cr3 .crw", "Epson": ".erf", "Fujifilm": ".raf", "Hasselblad": ".3fr .fff",
    "Kodak": ".dcr .kdc .k25", "Leaf": ".mos", "Leica": ".rwl", "Minolta": ".mrw", "Nikon": ".nef .nrw",
    "Olympus": ".orf", "Panasonic": ".rw2", "Pentax": ".pef", "Phase One": ".iiq", "Samsung": ".srw",
    "Sigma": ".x3f", "Sony": ".arw .sr2 .srf",
}  # fmt: skip
"""The raw file suffixes of each maker."""

ENDINGS = {ending: maker for maker, endings in MAKERS.items() for ending in endings.split()}

MARKS = (
    (0, b"FUJIFILMCCD-RAW", "Fujifilm"), (0, b"IIRO", "Olympus"), (0, b"IIRS", "Olympus"), (0, b"MMOR", "Olympus"),
    (0, b"IIU\0", "Panasonic"), (0, b"FOVb", "Sigma"), (0, b"\0MRM", "Minolta"), (4, b"ftypcrx ", "Canon"),
    (8, b"CR\2\0", "Canon"), (6, b"HEAPCCDR", "Canon"),
)  # fmt: skip
"""Signatures of raw files: (offset, bytes, maker)."""

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SENSOR = (32803, 34892)
"""Photometric interpretations of sensor data: colour filter array, and linear raw."""

_DIRECTORIES = 64
"""Most directories of a file that are read."""


def refuse_raw(data: bytes, name: str) -> None:
    """Refuse camera raw files.

    Raises:
        PictureError: it is a raw file, or a TIFF whose first page is a thumbnail; the message says what to do.
    """
    order = _ORDERS.get(data[:4])
    maker = next((maker for at, mark, maker in MARKS if data[at : at + len(mark)] == mark), None)
    if maker is None and order is not None:
        maker = ENDINGS.get(Path(name).suffix.lower())
    tags = [] if order is None or maker is not None else list(_directories(data, order))
    sensor = any(50706 in one or one.get(262) in _SENSOR for one in tags)
    if maker is not None or sensor:
        whose = "camera raw file" if maker is None else f"camera raw file ({maker})"
        raise PictureError(
            f"{name}: is a {whose}, whose first picture is a thumbnail; develop it first (darktable, RawTherapee), "
            "and save it as TIFF or JPEG"
        )
    if len(tags) > 1 and (tags[0].get(254, 0) & 1 or tags[0].get(255) == 2):
        raise PictureError(
            f"{name}: its first page is a reduced copy (thumbnail) of its picture; save the picture as a flat TIFF"
        )


def _directories(data: bytes, order: str) -> Iterator[dict[int, int]]:
    """Yield {tag: first value} of every directory of a classic TIFF, including nested ones; stop where the structure is
    damaged."""
    try:
        (first,) = struct.unpack_from(order + "L", data, 4)
        waiting, seen = [first], set[int]()
        while waiting and len(seen) < _DIRECTORIES:
            at = waiting.pop(0)
            if at in seen or not 8 <= at < len(data):
                continue
            seen.add(at)
            (count,) = struct.unpack_from(order + "H", data, at)
            tags: dict[int, int] = {}
            for k in range(count):
                tag, kind, many = struct.unpack_from(order + "HHL", data, at + 2 + 12 * k)
                if kind not in (1, 3, 4, 13):
                    continue
                letter, place = {1: "B", 3: "H"}.get(kind, "L"), at + 10 + 12 * k
                if many * struct.calcsize(order + letter) > 4:
                    (place,) = struct.unpack_from(order + "L", data, place)
                many = min(many, _DIRECTORIES) if tag == 330 else 1
                values = struct.unpack_from(f"{order}{many}{letter}", data, place)
                tags[tag] = values[0] if values else 0
                if tag == 330:
                    waiting.extend(values)
            yield tags
            (following,) = struct.unpack_from(order + "L", data, at + 2 + 12 * count)
            waiting.append(following)
    except struct.error:
        return
