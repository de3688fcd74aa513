"""PNG files as chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from editkit.errors import PictureError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunks(data: bytes, name: str = "the PNG file") -> Iterator[tuple[bytes, bytes]]:
    """(type, data) of each chunk of a PNG file. Raises `PictureError` where the file ends inside one."""
    at = len(PNG_SIGNATURE)
    while at < len(data):
        if at + 12 > len(data):
            raise PictureError(f"{name}: ends inside a PNG chunk; it is truncated")
        (length,) = struct.unpack_from(">L", data, at)
        kind = data[at + 4 : at + 8]
        if at + 12 + length > len(data):
            raise PictureError(f"{name}: ends inside its PNG chunk {kind!r}; it is truncated")
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IEND":
            return


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file with its length and checksum."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def deflated(data: bytes) -> bytes:
    """A zlib stream of `data` by libdeflate, at the lowest level whose files are no larger than zlib's usual ones, of
    drawings as of photographs (benchmarks/writing.py).
    """
    import deflate

    return bytes(deflate.zlib_compress(data, 7))


def png_text(keyword: str, text: str, compress: bool = False) -> bytes:
    """An iTXt chunk: international text (UTF-8) under a keyword of 1 to 79 characters."""
    body = text.encode()
    packed = zlib.compress(body, 9) if compress else body
    head = keyword.encode("latin-1") + (b"\0\1\0\0\0" if compress else b"\0\0\0\0\0")
    return png_chunk(b"iTXt", head + packed)
