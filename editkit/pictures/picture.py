"""Pictures in memory: pixels, and which of them are to be regenerated.

Orientation is applied when a file is read, so that width, height, masks and coordinates mean what the user sees.
Reading and writing are in `editkit.pictures.files`; no torch is imported before a tensor is asked for.
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
"""What lies in a hole to begin with: see `editkit.pictures.filling.filled`."""


@dataclass(frozen=True, eq=False, repr=False)
class Picture(Raster):
    """A picture in memory, upright and RGB: a `Raster`, and which of its pixels are to be regenerated.

    Args:
        mask: (H, W) float32 in [0, 1], 1 = regenerate; None: everything may change.
        fill: what lies under the mask where something must; None: as the model and the start have it.
        barred: (H, W) bool, what a model that learns from the picture is not to learn from; None: nothing.

    Raises:
        PictureError: shapes or types that do not fit together.
    """

    mask: NDArray[np.float32] | None = None
    fill: Fill | None = None
    barred: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None and self.mask.shape != self.pixels.shape[:2]:
            raise PictureError(f"the mask must be {self.pixels.shape[:2]} like the pixels, got {self.mask.shape}")
        if self.barred is not None and self.barred.shape != self.pixels.shape[:2]:
            raise PictureError(
                f"what is barred must be {self.pixels.shape[:2]} like the pixels, got {self.barred.shape}"
            )

    @classmethod
    def read(cls, source: str | Path | bytes | Pixels | Image.Image | BinaryIO | Picture) -> Picture:
        """A picture from a file, "-" (standard input), the bytes of one, an open binary file, an array or a
        Pillow image.

        A `Picture` is given back as it is.

        Raises:
            PictureError: what was wrong with it, in one line.
        """
        from editkit.pictures.files.reading import read

        if isinstance(source, Picture):
            return source
        raster = read(source)
        return cls(raster.pixels, raster.alpha, raster.meta)

    def with_mask(
        self, mask: NDArray[Any] | None, fill: Fill | None = None, barred: NDArray[np.bool_] | None = None
    ) -> Picture:
        """This picture with `mask`, (H, W) in [0, 1], 1 = regenerate, what lies there to begin with, and `barred`."""
        mask = None if mask is None else np.asarray(mask, dtype=np.float32)
        return replace(self, mask=mask, fill=fill, barred=barred)

    def with_pixels(self, pixels: Pixels) -> Picture:
        """This picture with other `pixels`, of any size and of either depth.

        Alpha follows: resized where the size is another. The mask and what is barred stay only where the size does.
        """
        alpha = None if self.alpha is None else at_depth(self.alpha, pixels.dtype)
        if pixels.shape[:2] == self.pixels.shape[:2]:
            return replace(self, pixels=pixels, alpha=alpha)
        if alpha is not None:
            alpha = _resize(alpha, int(pixels.shape[1]), int(pixels.shape[0]))
        return replace(self, pixels=pixels, alpha=alpha, mask=None, barred=None)

    def resized(self, width: int, height: int) -> Picture:
        """This picture at another size, bicubic; alpha follows, the mask is left out."""
        channels = [_resize(self.visible[..., k], width, height) for k in range(3)]
        return self.with_pixels(np.stack(channels, axis=-1))

    def with_alpha(self, alpha: NDArray[Any] | None) -> Picture:
        """This picture with another alpha, (H, W) of the pixels' dtype; None: opaque."""
        return replace(self, alpha=alpha)

    def opaque_where(self, mask: NDArray[Any]) -> Picture:
        """This picture with alpha raised to at least `mask`: what was filled in is to be seen.

        A picture that is opaque everywhere afterwards has no alpha left.
        """
        if self.alpha is None:
            return self
        top = largest(self.alpha.dtype)
        alpha = np.maximum(self.alpha, np.rint(np.clip(mask, 0.0, 1.0) * float(top)).astype(self.alpha.dtype))
        return replace(self, alpha=None if (alpha == top).all() else alpha)

    @cached_property
    def visible(self) -> Pixels:
        """The pixels, and under full transparency the colour of the nearest one that is to be seen: what lies there in
        the file is no picture. The very array where nothing is hidden, or everything is.
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
        """(H, W), where it is fully transparent; None: nowhere, or everywhere, when nothing else is to be seen."""
        return None if self.visible is self.pixels or self.alpha is None else self.alpha == 0

    def coloured_as(self, meta: Metadata | None) -> Picture:
        """This picture in the colour profile of a file that said `meta`, None: sRGB; see `profiles.converted`."""
        from editkit.pictures.profiles import converted

        pixels = converted(self.pixels, self.meta, meta)
        return self if pixels is self.pixels else replace(self, pixels=pixels)

    @property
    def pil(self) -> Image.Image:
        """This picture as a Pillow image of 8 bits: RGB, or RGBA where it has alpha."""
        from PIL import Image

        channels = [at_depth(self.pixels, np.uint8)]
        channels += [] if self.alpha is None else [at_depth(self.alpha, np.uint8)[..., None]]
        return Image.fromarray(np.concatenate(channels, axis=-1))

    def show(self) -> None:
        """Open it in the system's viewer, as Pillow does."""
        self.pil.show()

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return as_png(self.pil)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """`np.asarray(picture)`: the pixels, (H, W, 3), without alpha; a copy where `copy` or another `dtype` asks."""
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
        """Write this picture whole or not at all; see `editkit.pictures.files.writing.write`."""
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
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _resize(values: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """One channel at another size, bicubic, of the same dtype."""
    from PIL import Image

    image = Image.fromarray(values.astype(np.float32))
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    rounded: NDArray[Any] = np.rint(np.clip(resized, 0.0, largest(values.dtype))).astype(values.dtype)
    return rounded
