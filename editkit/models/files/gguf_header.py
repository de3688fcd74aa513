"""Check the header of a .gguf file before the package `gguf` reads it.

That package makes an object of every declared value, whether the file contains it or not: a header of 49 bytes that
declares an array of 2**50 numbers keeps it busy forever. Here every declared value must lie within the file, and their
number is limited. The numbers of arrays are not read.

Layout (ggml's docs/gguf.md, version 3): "GGUF", version, tensors, values; each value has a name, a kind and its data;
each tensor has a name, its dimensions, a kind and an offset. The length precedes texts and arrays.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

MOST = 100_000
"""Most values, and most tensors: image models have a dozen values and some thousands of tensors."""

DEEPEST = 4
"""Most levels of nested arrays."""

SIDES = 8
"""Most dimensions of a tensor; ggml has 4."""

TEXT, ARRAY = 8, 9
BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by the kind of value."""


class HeaderError(ValueError):
    """A header is invalid; the message is part of a sentence."""


def check_header(file: Path) -> None:
    """Check the whole header of `file`.

    Raises:
        OSError: it cannot be read.
        HeaderError: it is not a header, or declares more than the file contains or a network needs.
    """
    with file.open("rb") as data:
        _Header(data, os.fstat(data.fileno()).st_size).read()


class _Header:
    def __init__(self, data: BinaryIO, size: int) -> None:
        self.data, self.size, self.order, self.values = data, size, "<", 0

    def read(self) -> None:
        if self.data.read(4) != b"GGUF":
            raise HeaderError("it does not begin as one")
        version = self.data.read(4)
        self.order = ">" if version[:2] == b"\0\0" else "<"
        tensors, values = self._count(), self._count()
        for what, count in (("tensors", tensors), ("values", values)):
            if count > MOST:
                raise HeaderError(f"it claims {count} {what}; {MOST} at most are read")
        for _ in range(values):
            self._skip(self._count())
            self._value(self._number("I"))
        for _ in range(tensors):
            self._skip(self._count())
            sides = self._number("I")
            if sides > SIDES:
                raise HeaderError(f"it claims a tensor of {sides} sides")
            self._skip(8 * sides + 12)

    def _value(self, kind: int, deep: int = 0) -> None:
        self.values += 1
        if self.values > MOST:
            raise HeaderError(f"it has more than {MOST} values beside its tensors")
        if kind == TEXT:
            self._skip(self._count())
        elif kind == ARRAY:
            self._array(deep)
        elif kind in BYTES:
            self._skip(BYTES[kind])
        else:
            raise HeaderError(f"it has a value of a kind that is not known ({kind})")

    def _array(self, deep: int) -> None:
        kind, count = self._number("I"), self._count()
        if deep == DEEPEST:
            raise HeaderError(f"it has more than {DEEPEST} arrays in each other")
        if self.values + count > MOST:
            raise HeaderError(f"it claims an array of {count}; {MOST} values at most are read")
        if kind in BYTES:
            self.values += count
            self._skip(BYTES[kind] * count)
            return
        for _ in range(count):
            self._value(kind, deep + 1)

    def _count(self) -> int:
        return self._number("Q")

    def _number(self, kind: str) -> int:
        kind = self.order + kind
        data = self.data.read(struct.calcsize(kind))
        if len(data) < struct.calcsize(kind):
            raise HeaderError("it ends within its header")
        return int(struct.unpack(kind, data)[0])

    def _skip(self, count: int) -> None:
        if count > self.size - self.data.tell():
            raise HeaderError(f"it claims {count} bytes where {max(self.size - self.data.tell(), 0)} are left")
        self.data.seek(count, os.SEEK_CUR)
