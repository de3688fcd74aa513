"""JPEG files as segments: captions (IPTC), and further parts (gain maps, motion photos); the noise of quantisation."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

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


SPREAD = 6_000.0
"""Variance of a photograph's DCT coefficient (u, v) of 8x8 pixels is about this over u^2 + v^2, in levels of 255."""


def quantisation_noise(steps: np.ndarray) -> float:
    """Return the standard deviation in a photograph of the noise that quantisation by `steps` makes, in levels of 255.

    A coefficient of variance v, quantised in steps q, errs by q^2 / 12, but hardly by more than v; `steps` has 64
    values, row by row.
    """
    k = np.arange(8.0)
    radius = (k[:, None] ** 2 + k[None, :] ** 2).ravel()
    variance = SPREAD / np.maximum(radius, 0.1)
    error = np.asarray(steps, float).ravel() ** 2 / 12
    return float(np.sqrt((error * variance / (error + variance)).mean()))
