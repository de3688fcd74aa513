"""The colour space of a picture, and the equivalent ICC profile for formats that support nothing else.

It is declared by code points (CICP: PNG's cICP, AVIF's nclx) or by gamma and primaries (PNG's gAMA and cHRM). Code
points are those of ITU-T H.273. The matrix profile follows ICC.1:2010, 8.3.3; the white point is adapted to D50 by
Bradford's transform.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

D65 = (0.3127, 0.3290)
PRIMARIES: dict[int, tuple[float, ...]] = {
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *D65),
    4: (0.670, 0.330, 0.210, 0.710, 0.140, 0.080, 0.310, 0.316),
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060, *D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65),
    22: (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *D65),
}
"""Chromaticities x and y of red, green, blue and white, by code point."""

NAMES = {4: "BT.470M", 5: "BT.470BG", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
HDR = {16: "PQ", 18: "HLG"}
"""HDR transfer functions, which a matrix profile cannot express."""

_SRGB = (1, 2, 6, 13, 14, 15)
"""Transfer functions that viewers show as sRGB; 2 is `unspecified`."""

_GAMMA = {4: 2.2, 5: 2.8, 8: 1.0}


def code_points(data: bytes) -> bytes | None:
    """Return the code points of an AVIF or HEIC file in PNG's cICP layout: primaries, transfer, matrix 0, full range.

    They come from the first `nclx` box. The matrix is 0, because the decoder has undone it. None: there is no such box,
    or the colours are sRGB.
    """
    properties = _nested_boxes(data, (b"meta", b"iprp", b"ipco"))
    for kind, body in properties:
        if kind == b"colr" and body[:4] == b"nclx" and len(body) >= 10:
            primaries, transfer = struct.unpack_from(">HH", body, 4)
            if (primaries in (1, 2) and transfer in _SRGB) or max(primaries, transfer) > 255:
                return None
            return bytes([primaries, transfer, 0, 1])
    return None


def _nested_boxes(data: bytes, path: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Yield (type, body) of the boxes inside the first box at `path`."""
    for step in path:
        found = next((body for kind, body in _boxes(data) if kind == step), b"")
        data = found[4:] if step == b"meta" else found
    return _boxes(data)


def _boxes(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind, head = *struct.unpack_from(">L4s", data, at), 8
        if size == 1 and at + 16 <= len(data):
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        elif size == 0:
            size = len(data) - at
        if size < head:
            return
        yield kind, data[at + head : at + size]
        at += size


def code_points_take_precedence(chunks: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the code points of a PNG take precedence over its ICC profile (PNG, third edition, 4.3).

    They do if they are known; if they are unspecified or unknown, the profile applies.
    """
    code = dict(chunks).get(b"cICP", b"")
    return len(code) == 4 and code[0] in PRIMARIES and code[2] == 0 and code[1] != 2 and _is_known_transfer(code[1])


def _is_known_transfer(transfer: int) -> bool:
    return transfer in HDR or _transfer_curve(transfer) is not None


def interpret_chunks(chunks: Iterable[tuple[bytes, bytes]]) -> tuple[str, bytes | None] | None:
    """Interpret PNG colour chunks; return (a name, the equivalent ICC profile or None).

    None: the colours are sRGB, or there are no such chunks.
    """
    by_kind = dict(chunks)
    code = by_kind.get(b"cICP")
    if code is not None and len(code) == 4:
        return _interpret_code_points(code[0], code[1])
    if b"sRGB" in by_kind or not {b"gAMA", b"cHRM"} & by_kind.keys():
        return None
    gamma, corners = 1 / 2.2, PRIMARIES[1]
    if len(by_kind.get(b"gAMA", b"")) == 4:
        gamma = struct.unpack(">L", by_kind[b"gAMA"])[0] / 1e5
    if len(by_kind.get(b"cHRM", b"")) == 32:
        white, rest = struct.unpack(">8L", by_kind[b"cHRM"])[:2], struct.unpack(">8L", by_kind[b"cHRM"])[2:]
        corners = tuple(value / 1e5 for value in (*rest, *white))
    usual = abs(gamma - 1 / 2.2) < 0.005 and np.abs(np.subtract(corners, PRIMARIES[1])).max() < 0.002
    if usual or not 0.05 < gamma < 5.0:
        return None
    return f"gamma {1 / gamma:.2f}", profile("gamma", corners, lambda v: v ** (1 / gamma))


def _interpret_code_points(primaries: int, transfer: int) -> tuple[str, bytes | None] | None:
    if primaries in (1, 2) and transfer in _SRGB:
        return None
    name = NAMES.get(primaries, "BT.709" if primaries in (1, 2) else f"primaries {primaries}")
    if transfer in HDR:
        return f"{name}, HDR ({HDR[transfer]})", None
    corners = PRIMARIES.get(1 if primaries == 2 else primaries)
    curve = _transfer_curve(transfer)
    if corners is None or curve is None:
        return f"{name}, transfer {transfer}", None
    return name, profile(name, corners, curve)


def _transfer_curve(transfer: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
    if transfer in _SRGB:
        return lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    gamma = _GAMMA.get(transfer)
    return None if gamma is None else lambda v: v**gamma


def profile(
    name: str, corners: Sequence[float], curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> bytes | None:
    """Build an ICC profile (version 2); return None if the primaries do not form a colour space.

    Args:
        name: description of the profile.
        corners: x and y of red, green, blue and white.
        curve: transfer function from a value in [0, 1] to light in [0, 1].
    """
    xy = np.asarray(corners, np.float64).reshape(4, 2)
    if (xy[:, 1] < 5e-5).any():
        return None
    xyz = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1.0 - xy.sum(1)) / xy[:, 1]], 1).T
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    try:
        matrix = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
        adapted = np.linalg.solve(bradford, np.diag(bradford @ d50 / (bradford @ xyz[:, 3])) @ bradford @ matrix)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 8.0:
        return None
    light = np.rint(65_535.0 * curve(np.linspace(0.0, 1.0, 1024))).clip(0, 65_535).astype(">u2").tobytes()
    text = f"{name} (from code points)".encode("ascii", "replace") + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">L", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0CC0\0",
        b"wtpt": _xyz(d50),
        **{letter + b"XYZ": _xyz(column) for letter, column in zip((b"r", b"g", b"b"), adapted.T, strict=True)},
        **{letter + b"TRC": b"curv\0\0\0\0" + struct.pack(">L", 1024) + light for letter in (b"r", b"g", b"b")},
    }
    return _assemble_profile(tags, d50)


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">l", round(float(value) * 65_536)) for value in values)


def _assemble_profile(tags: dict[bytes, bytes], white: NDArray[np.float64]) -> bytes:
    """Assemble the header, the tag table and the tag data; equal data is stored once."""
    at, table, bodies, places = 128 + 4 + 12 * len(tags), b"", b"", dict[bytes, int]()
    for key, body in tags.items():
        if body not in places:
            places[body] = at + len(bodies)
            bodies += body + bytes(-len(body) % 4)
        table += key + struct.pack(">LL", places[body], len(body))
    head = bytes(4) + struct.pack(">L", 0x0210_0000) + b"mntrRGB XYZ " + struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head += b"acsp" + bytes(28) + _xyz(white)[8:]
    whole = struct.pack(">L", len(tags)) + table + bodies
    return struct.pack(">L", 128 + len(whole)) + head.ljust(124, b"\0") + whole
