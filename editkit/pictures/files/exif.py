"""Update the parts of EXIF that an edit invalidates: the orientation, the thumbnail and the size."""

from __future__ import annotations

import struct


def with_upright_orientation(exif: bytes) -> bytes:
    """Set the orientation of EXIF (or of a classic TIFF file) to 1 and blank its thumbnail; the rest is unchanged.

    Patching in place keeps every offset, so that maker notes stay readable. Raises `ValueError` if the structure is
    damaged.
    """
    try:
        return _reset_orientation(exif)
    except struct.error as error:
        raise ValueError("damaged EXIF") from error


def _reset_orientation(exif: bytes) -> bytes:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise ValueError("EXIF starts neither with II nor with MM")
    data = bytearray(exif)
    (first,) = struct.unpack_from(order + "L", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    for index in range(count):
        at = first + 2 + 12 * index
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag == 0x0112:
            if kind not in (3, 4):
                raise ValueError("EXIF orientation is not a number")
            struct.pack_into(order + ("HH" if kind == 3 else "L"), data, at + 8, *((1, 0) if kind == 3 else (1,)))
    link = first + 2 + 12 * count
    if link + 4 > len(data):  # some writers omit the last link
        return bytes(data)
    (second,) = struct.unpack_from(order + "L", data, link)
    if second:
        struct.pack_into(order + "L", data, link, 0)
        _blank_thumbnail(data, order, second, (first, link + 4))
    return bytes(data)


def _blank_thumbnail(data: bytearray, order: str, directory: int, main: tuple[int, int]) -> None:
    """Zero the thumbnail that the second directory points to; `main` is the range of the first directory.

    Raises:
        ValueError: it would cover the header or a directory, which no thumbnail does.
    """
    (count,) = struct.unpack_from(order + "H", data, directory)
    values = {}
    for index in range(count):
        tag, _, _, value = struct.unpack_from(order + "HHLL", data, directory + 2 + 12 * index)
        values[tag] = value
    start, length = values.get(0x0201), values.get(0x0202)
    if start is not None and length is not None and start < len(data):
        end = min(start + length, len(data))
        for low, high in ((0, 8), main, (directory, directory + 2 + 12 * count)):
            if start < high and low < end:
                raise ValueError("the EXIF thumbnail covers the EXIF itself")
        data[start:end] = bytes(end - start)


_SIZES = {0x0100: 0, 0x0101: 1, 0xA002: 0, 0xA003: 1}
"""Tags with the width (0) or the height (1)."""


def with_size(exif: bytes, size: tuple[int, int]) -> bytes:
    """Set the size tags of EXIF, if any, to `size`, (width, height); return damaged EXIF unchanged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return exif
    data = bytearray(exif)
    try:
        (first,) = struct.unpack_from(order + "L", data, 4)
        for directory in (first, _set_sizes(data, order, first, size)):
            if directory:
                _set_sizes(data, order, directory, size)
    except struct.error:
        return exif
    return bytes(data)


def _set_sizes(data: bytearray, order: str, directory: int, size: tuple[int, int]) -> int:
    """Set them in one directory; return the offset of the EXIF directory, 0 without one."""
    (count,) = struct.unpack_from(order + "H", data, directory)
    below = 0
    for index in range(count):
        at = directory + 2 + 12 * index
        tag, kind, many, value = struct.unpack_from(order + "HHLL", data, at)
        if tag == 0x8769:
            below = value
        elif tag in _SIZES and kind in (3, 4) and many == 1:
            struct.pack_into(order + "HHLL", data, at, tag, 4, 1, size[_SIZES[tag]])
    return int(below)


def tag_bytes(tiff: bytes, tag: int) -> bytes | None:
    """Return the bytes of `tag` in the first directory of a classic TIFF; None if it is missing or damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(order + "L", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, at)
        for place in range(at + 2, at + 2 + 12 * count, 12):
            found, kind, many = struct.unpack_from(order + "HHL", tiff, place)
            if found == tag:
                size = many * {3: 2, 4: 4}.get(kind, 1)
                (place,) = struct.unpack_from(order + "L", tiff, place + 8) if size > 4 else (place + 8,)
                return tiff[place : place + size] if place + size <= len(tiff) else None
    except struct.error:
        pass
    return None
