"""JPEG files as segments: captions (IPTC), and further parts (gain maps, motion photos)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC = 0x0404
LONGEST = 65_000
"""Most bytes of a segment, rounded down."""


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, body) of each segment before the first scan; stop where the structure is damaged."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 4 <= len(data) and data[at] == 0xFF:
        marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
        if marker in (0xDA, 0xD9) or length < 2:
            return
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length


def iptc(data: bytes) -> bytes | None:
    """Return the caption, author and copyright of a JPEG (IPTC-NAA records); None if it has none.

    Photoshop's other resources (a thumbnail, paths, layer states) are left out.
    """
    whole = b"".join(
        body[len(_PHOTOSHOP) :] for marker, body in segments(data) if marker == 0xED and body.startswith(_PHOTOSHOP)
    )
    return in_resources(whole)


def in_resources(whole: bytes) -> bytes | None:
    """Return the IPTC-NAA records among Photoshop's resources."""
    at = 0
    while at + 12 <= len(whole) and whole[at : at + 4] == b"8BIM":
        (kind,) = struct.unpack_from(">H", whole, at + 4)
        name = whole[at + 6] + 1
        size = at + 6 + name + name % 2
        if size + 4 > len(whole):
            return None
        (length,) = struct.unpack_from(">L", whole, size)
        if kind == _IPTC:
            return whole[size + 4 : size + 4 + length] or None
        at = size + 4 + length + length % 2
    return None


def with_iptc(data: bytes, records: bytes) -> bytes:
    """Insert these records into a JPEG as a separate segment, after those that must come first."""
    resource = b"8BIM" + struct.pack(">H", _IPTC) + b"\0\0" + struct.pack(">L", len(records)) + records
    body = _PHOTOSHOP + resource + b"\0" * (len(records) % 2)
    at = 2
    for marker, inside in segments(data):
        if not 0xE0 <= marker <= 0xEF:
            break
        at += 4 + len(inside)
    return data[:at] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + data[at:]
