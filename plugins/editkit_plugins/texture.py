"""Texture synthesis: fill a canvas of any size with patches of one picture.

The canvas is entirely unknown, and the input picture is the example (Efros & Leung 1999). The whole canvas is optimised
at once, coarse to fine, as in Kwatra et al. 2005, "Texture optimization for example-based synthesis".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from editkit.plugin import Hooks, Notify, Picture, Plugin, Section, Slot, UsageError
from editkit_plugins.restoring.memory import afford
from editkit_plugins.sizes import Size, sides
from editkit_plugins.tiling import tileable

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor

SMALLEST = 16
"""Shortest side of a tileable canvas, in pixels."""

CELLS = 4
"""The sample is compared in this many rows and columns of cells."""

LAYOUT = 0.32
"""Share of the sample's contrast that lies between cells, from which it has a layout. Chosen between 40 random crops
of assets/photos/grass.jpg (at most 0.30) and 33 training photographs (every sixth file: 0.34 and more). Of photographs
that were not looked at, 32 of 32 held-out ones and 32 of 33 others have more; they show scenes and objects."""


def layout_share(pixels: NDArray[Any]) -> float:
    """Return how much of an image's contrast is its layout: between 4 x 4 cells, not inside them; 0 to 1.

    `pixels` is (H, W, 3). The share is a ratio of standard deviations, of the colours (Lab) or of the detail (log of
    the gradient of L), whichever is larger. It is 0 if all cells have the same mean, 1 if every cell is flat.
    """
    import cv2

    scaled = (pixels.astype(np.float32) / float(np.iinfo(pixels.dtype).max)).astype(np.float32)
    lab = cv2.cvtColor(scaled, cv2.COLOR_RGB2Lab)
    across, down = (cv2.Sobel(lab[..., 0], cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    detail = np.log1p(np.hypot(across, down) * (255.0 / 800.0))  # L in levels of 255, a difference of two pixels
    return max(_between_cells(lab), _between_cells(detail[..., None]))


def _between_cells(values: NDArray[Any]) -> float:
    """Return the standard deviation of the cells' means of (H, W, channels), relative to that of all values."""
    whole = float(values.reshape(-1, values.shape[-1]).var(0, dtype=np.float64).sum())
    rows = np.array_split(values, CELLS, axis=0)
    means = [cell.mean((0, 1), dtype=np.float64) for row in rows for cell in np.array_split(row, CELLS, axis=1)]
    return float(np.sqrt(np.var(means, axis=0).sum() / whole)) if whole > 0.0 else 0.0


class Texture(Plugin):
    """Fill a whole canvas of any size with the texture of the picture."""

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask", "size"})
    name: ClassVar[str] = "texture"
    group: ClassVar[Section] = "grow"
    usage: ClassVar[tuple[str, ...]] = (
        "texture grass.jpg --size 1024x768",
        "texture grass.jpg --size 512x512 --tile -o lawn.png",
        "texture wall.jpg --size 800x600 then upscale --scale 2",
    )
    fresh: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"examples"})
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"size": "20x16"}

    size: Size = Field("1024x1024", description="Width and height of the canvas in pixels, as 1024x768.")
    tile: bool = Field(False, description="Make the texture tileable: copies side by side show no seam.")

    def hooks(self) -> type[Hooks[Texture]]:
        return _TileHooks if self.tile else Hooks

    def open(self, picture: Picture, notify: Notify) -> Picture:
        width, height = sides(self.size)
        if self.tile and min(width, height) < SMALLEST:
            raise UsageError(f"texture --tile needs at least {SMALLEST}x{SMALLEST} pixels, got {self.size}")
        afford(f"a texture of {width}x{height}", width, height)
        if min(picture.size) >= SMALLEST and layout_share(picture.visible) > LAYOUT:
            notify(
                "texture: the sample has a layout (large objects, a sky, light that changes), and texture repeats only "
                "small, even structure: expect a jumble; crop the image to an even part first"
            )
        canvas = Picture(np.zeros((height, width, 3), picture.pixels.dtype), meta=picture.meta)
        return canvas.with_mask(np.ones((height, width), np.float32))

    def examples(self, picture: Picture) -> Sequence[Picture]:
        return (picture,)


class _TileHooks(Hooks[Texture]):
    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        import torch

        texture = image[0].permute(1, 2, 0).cpu().numpy()
        return torch.from_numpy(tileable(texture).copy()).permute(2, 0, 1)[None].to(image)
