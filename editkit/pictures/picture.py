"""Pictures in memory: pixels, and the mask of those to regenerate.

Orientation is applied when a file is read, so that width, height, masks and coordinates refer to what the user sees.
Reading and writing are in `editkit.pictures.files`; torch is imported only when a tensor is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from editkit.errors import PictureError
from editkit.pictures.raster import Pixels, Raster, at_depth, largest

if TYPE_CHECKING:
    from PIL import Image

    from editkit.pictures.files.metadata import Metadata
    from editkit.pictures.files.provenance import Provenance
    from editkit.pictures.files.writing import Written

Fill = Literal["smooth", "noise", "mean", "original"]
"""The initial content of a hole: see `editkit.pictures.filling.filled`."""


@dataclass(frozen=True, eq=False, repr=False)
class Picture(Raster):
    """A picture in memory, upright and RGB: a `Raster` with a mask of the pixels to regenerate.

    Args:
        mask: (H, W) float32 in [0, 1], 1 = regenerate; None: everything may change.
        fill: the initial content under the mask; None: the default of the model and the start.
        barred: (H, W) bool, pixels that a model which learns from the picture must not use; None: none.

    Raises:
        PictureError: shapes or types do not match.
    """

    mask: NDArray[np.float32] | None = None
    fill: Fill | None = None
    barred: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None and self.mask.shape != self.pixels.shape[:2]:
            raise PictureError(f"the mask must be {self.pixels.shape[:2]} like the pixels, got {self.mask.shape}")
        if self.barred is not None and self.barred.shape != self.pixels.shape[:2]:
            raise PictureError(f"barred must be {self.pixels.shape[:2]} like the pixels, got {self.barred.shape}")

    @classmethod
    def read(cls, source: str | Path | bytes | Pixels | Image.Image | BinaryIO | Picture) -> Picture:
        """Read a picture from a path, "-" (standard input), bytes, an open binary file, an array or a Pillow image.

        A `Picture` is returned unchanged.

        Raises:
            PictureError: it cannot be read; the message is one line.
        """
        from editkit.pictures.files.reading import read

        if isinstance(source, Picture):
            return source
        raster = read(source)
        return cls(raster.pixels, raster.alpha, raster.meta)

    def with_mask(
        self, mask: NDArray[Any] | None, fill: Fill | None = None, barred: NDArray[np.bool_] | None = None
    ) -> Picture:
        """Return this picture with `mask`, (H, W) in [0, 1], 1 = regenerate, and the given `fill` and `barred`."""
        mask = None if mask is None else np.asarray(mask, dtype=np.float32)
        return replace(self, mask=mask, fill=fill, barred=barred)

    def with_pixels(self, pixels: Pixels) -> Picture:
        """Return this picture with other `pixels`, of any size and either depth.

        Alpha is resized if the size differs. The mask and `barred` are kept only if the size is the same.
        """
        alpha = None if self.alpha is None else at_depth(self.alpha, pixels.dtype)
        if pixels.shape[:2] == self.pixels.shape[:2]:
            return replace(self, pixels=pixels, alpha=alpha)
        if alpha is not None:
            alpha = _resize(alpha, int(pixels.shape[1]), int(pixels.shape[0]))
        return replace(self, pixels=pixels, alpha=alpha, mask=None, barred=None)

    def resized(self, width: int, height: int) -> Picture:
        """Return this picture resized (bicubic) with its alpha; the mask is dropped."""
        channels = [_resize(self.visible[..., k], width, height) for k in range(3)]
        return self.with_pixels(np.stack(channels, axis=-1))

    def with_alpha(self, alpha: NDArray[Any] | None) -> Picture:
        """Return this picture with another alpha, (H, W) of the pixels' dtype; None: opaque."""
        return replace(self, alpha=alpha)

    def opaque_where(self, mask: NDArray[Any]) -> Picture:
        """Return this picture with alpha raised to at least `mask`, so that filled pixels are visible.

        If the result is opaque everywhere, it has no alpha.
        """
        if self.alpha is None:
            return self
        top = largest(self.alpha.dtype)
        alpha = np.maximum(self.alpha, np.rint(np.clip(mask, 0.0, 1.0) * float(top)).astype(self.alpha.dtype))
        return replace(self, alpha=None if (alpha == top).all() else alpha)

    @cached_property
    def visible(self) -> Pixels:
        """Return the pixels; fully transparent ones, whose stored colours are meaningless, get the colour of the
        nearest visible pixel. The same array if nothing or everything is hidden.
        """
        hidden = None if self.alpha is None else self.alpha == 0
        if hidden is None or not hidden.any() or hidden.all():
            return self.pixels
        import cv2

        _, labels = cv2.distanceTransformWithLabels(
            hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        nearest = np.zeros(int(labels.max()) + 1, np.int64)
        nearest[labels[~hidden]] = np.flatnonzero(~hidden)
        pixels = self.pixels.copy()
        pixels[hidden] = self.pixels.reshape(-1, 3)[nearest[labels[hidden]]]
        return pixels

    @property
    def hidden(self) -> NDArray[np.bool_] | None:
        """Return (H, W), True where it is fully transparent; None if it is so nowhere or everywhere."""
        return None if self.visible is self.pixels or self.alpha is None else self.alpha == 0

    def coloured_as(self, meta: Metadata | None) -> Picture:
        """Convert this picture to the colour profile in `meta`; None: sRGB. See `profiles.convert_profile`."""
        from editkit.pictures.profiles import convert_profile

        pixels = convert_profile(self.pixels, self.meta, meta)
        return self if pixels is self.pixels else replace(self, pixels=pixels)

    @property
    def pil(self) -> Image.Image:
        """Return this picture as an 8-bit Pillow image: RGB, or RGBA if it has alpha."""
        from PIL import Image

        channels = [at_depth(self.pixels, np.uint8)]
        channels += [] if self.alpha is None else [at_depth(self.alpha, np.uint8)[..., None]]
        return Image.fromarray(np.concatenate(channels, axis=-1))

    def show(self) -> None:
        """Open the picture in the system's viewer, like Pillow."""
        self.pil.show()

    def _repr_png_(self) -> bytes:
        """Return the PNG that a notebook shows."""
        return as_png(self.pil)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the pixels, (H, W, 3), without alpha, for `np.asarray`; a copy if `copy` or `dtype` requires it."""
        return np.array(self.pixels, dtype) if copy else np.asarray(self.pixels, dtype)

    def write(
        self,
        path: str | Path,
        *,
        force: bool = False,
        provenance: Provenance | None = None,
        quality: int | None = None,
        format: str | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> Written:
        """Write this picture atomically; see `editkit.pictures.files.writing.write`."""
        from editkit.pictures.files.writing import write

        return write(
            self,
            path,
            mask=self.mask,
            force=force,
            text=None if provenance is None else provenance.to_text(),
            quality=quality,
            format=format,
            on_notice=on_notice,
        )

    save = write


def as_png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _resize(values: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """Resize one channel (bicubic), keeping the dtype."""
    from PIL import Image

    image = Image.fromarray(values.astype(np.float32))
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    rounded: NDArray[Any] = np.rint(np.clip(resized, 0.0, largest(values.dtype))).astype(values.dtype)
    return rounded
