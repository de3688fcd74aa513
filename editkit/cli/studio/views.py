"""What the browser shows of a picture: a preview of bounded size, and tiles at every zoom level.

Both are 8-bit sRGB; edits use the file itself. Decoded pictures are kept while they fit into memory.
"""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editkit.cli.studio.config import RefusedRequest
from editkit.cli.studio.store import Store
from editkit.errors import PictureError
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth

SIDE = 2048
"""Longest side of a preview, in pixels."""

THUMB = 320
"""Longest side of a thumbnail in the list of the folder, in pixels."""

TILE = 512
"""Side of a tile, in pixels."""

LEVELS = 12
"""Number of zoom levels: a pixel of level k is the mean of 2^k x 2^k pixels."""


class Views:
    """Previews and tiles. `most`: bytes of decoded pictures to keep."""

    def __init__(self, store: Store, most: int) -> None:
        self.store, self.most = store, most
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, int], NDArray[np.uint8]] = OrderedDict()
        self._thumbs: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._previews: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def preview(self, id_: str) -> bytes:
        """Return an image file of the whole picture, at most `SIDE` pixels a side."""
        key = self._key(id_)
        with self._lock:
            known = self._previews.get(key)
        if known is None:
            pixels = self._pixels(key)
            scale = min(1.0, SIDE / max(pixels.shape[:2]))
            size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
            known = encode_preview(shrink_to(pixels, size))
            with self._lock:
                self._previews[key] = known
                while sum(map(len, self._previews.values())) > self.most // 8:
                    self._previews.popitem(last=False)
        return known

    def thumb(self, path: str) -> bytes:
        """Return a thumbnail of a file of the folder.

        Raises:
            Refused: it does not exist. EditkitError: it cannot be read.
        """
        file = self.store.inside(path)
        key = (path, file.stat().st_mtime_ns)
        with self._lock:
            known = self._thumbs.get(key)
        if known is None:
            pixels = to_viewable(Picture.read(file))
            scale = min(1.0, THUMB / max(pixels.shape[:2]))
            size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
            known = encode_preview(shrink_to(pixels, size))
            with self._lock:
                self._thumbs[key] = known
                while len(self._thumbs) > 500:
                    self._thumbs.popitem(last=False)
        return known

    def tile(self, id_: str, level: int, column: int, row: int) -> bytes:
        """Return an image file of one tile.

        Raises:
            Refused: there is no such tile.
        """
        key = self._key(id_)
        if not 0 <= level <= LEVELS or column < 0 or row < 0:
            raise RefusedRequest(404, "there is no such tile")
        pixels = self._pixels(key)
        side = TILE << level
        part = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
        if not part.size:
            raise RefusedRequest(404, "there is no such tile")
        size = max(1, -(-part.shape[1] >> level)), max(1, -(-part.shape[0] >> level))
        return encode_preview(shrink_to(part, size))

    def _key(self, id_: str) -> tuple[str, int]:
        file = self.store.file(self.store.picture(id_))
        return id_, file.stat().st_mtime_ns

    def _pixels(self, key: tuple[str, int]) -> NDArray[np.uint8]:
        """Return (H, W, 3 or 4) uint8, sRGB."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
            picture = Picture.read(self.store.file(self.store.picture(key[0])))
            pixels = to_viewable(picture)
            self._kept[key] = pixels
            while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self.most:
                self._kept.popitem(last=False)
            return pixels


def to_viewable(picture: Picture) -> NDArray[np.uint8]:
    """Return (H, W, 3 or 4) uint8, in sRGB if it can be converted."""
    with contextlib.suppress(PictureError):  # HDR: unconverted values
        picture = picture.coloured_as(None)
    channels: list[NDArray[Any]] = [at_depth(picture.pixels, np.uint8)]
    if picture.alpha is not None:
        channels.append(at_depth(picture.alpha, np.uint8)[..., None])
    return np.ascontiguousarray(np.concatenate(channels, axis=-1))


def shrink_to(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to `size` (width, height); each pixel is the mean of those it covers."""
    import cv2

    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    made: NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return made


def encode_preview(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a PNG quickly, at low compression."""
    from PIL import Image

    file = io.BytesIO()
    if pixels.shape[0] * pixels.shape[1] > TILE * TILE:
        Image.fromarray(pixels).save(file, "WEBP", quality=90, method=1)
    else:
        Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
