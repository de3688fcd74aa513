"""Detectors without weights, built on OpenCV: edges, lines, tones, colours, layout.

Lines are white on black, as in the training data of ControlNets (Zhang et al. 2023, arXiv:2302.05543).
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from editkit.plugin import Detector, Pixels


class Canny(Detector):
    """Edges (Canny 1986): those stronger than `high`, and those stronger than `low` that connect to them."""

    name: ClassVar[str] = "canny"

    low: int = Field(100, ge=0, le=2000, description="Weakest gradient that continues an edge.")
    high: int = Field(200, ge=0, le=2000, description="Weakest gradient that starts an edge.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        made: Pixels = cv2.Canny(pixels, self.low, self.high)
        return made


class Lineart(Detector):
    """Line art: pixels darker than their surroundings, by a difference of Gaussians."""

    name: ClassVar[str] = "lineart"

    sigma: float = Field(6.0, gt=0.0, le=100.0, description="Width of the surroundings, in pixels.")
    threshold: int = Field(8, ge=0, le=254, description="Differences up to this level (of 255) are ignored.")

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        darker = np.maximum(cv2.GaussianBlur(grey, (0, 0), self.sigma) - grey - self.threshold, 0.0)
        if not darker.any():
            return np.zeros_like(pixels)
        top = np.percentile(darker[darker > 0], 90)
        made: Pixels = np.rint(np.minimum(darker / top, 1.0) * 255.0).astype(np.uint8)
        return made


class Scribble(Detector):
    """A rough sketch: edges of the blurred picture, as thick strokes."""

    name: ClassVar[str] = "scribble"

    sigma: float = Field(3.0, gt=0.0, le=100.0, description="Details finer than this, in pixels, are ignored.")
    thickness: int = Field(5, ge=1, le=99, description="Width of a stroke in pixels.")

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        edges = cv2.Canny(cv2.GaussianBlur(pixels, (0, 0), self.sigma), 20, 60)
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (self.thickness, self.thickness))
        strokes = cv2.GaussianBlur(cv2.dilate(edges, pen), (0, 0), 1.0 + self.thickness / 5)
        return np.where(strokes > 127, 255, 0).astype(np.uint8)


class Tile(Detector):
    """The picture without fine detail, for ControlNets that regenerate it; factor 1 is the picture itself."""

    name: ClassVar[str] = "tile"

    factor: int = Field(4, ge=1, le=64, description="Average over squares with this many pixels a side.")

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        if self.factor == 1:
            return pixels
        height, width = pixels.shape[:2]
        small = cv2.resize(pixels, _cells(width, height, self.factor), interpolation=cv2.INTER_AREA)
        made: Pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        return made


class Luma(Detector):
    """Brightness without colour (Rec. 601)."""

    name: ClassVar[str] = "luma"

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        made: Pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return made


class Blur(Detector):
    """The picture, blurred by a Gaussian."""

    name: ClassVar[str] = "blur"

    sigma: float = Field(8.0, gt=0.0, le=500.0, description="Standard deviation in pixels.")

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        made: Pixels = cv2.GaussianBlur(pixels, (0, 0), self.sigma)
        return made


class Palette(Detector):
    """Layout of colours: the mean colour of every square of a grid."""

    name: ClassVar[str] = "palette"

    cell: int = Field(64, ge=2, le=4096, description="Side of a square in pixels.")

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        height, width = pixels.shape[:2]
        small = cv2.resize(pixels, _cells(width, height, self.cell), interpolation=cv2.INTER_AREA)
        made: Pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
        return made


class Shuffle(Detector):
    """The picture's colours and textures without its layout: pixels moved along a smooth random flow."""

    name: ClassVar[str] = "shuffle"

    grain: int = Field(256, ge=2, le=4096, description="Spacing of the flow's random values, in pixels.")
    seed: int = Field(0, ge=0, description="Seed of the flow.")

    def __call__(self, pixels: Pixels) -> Pixels:
        import cv2

        height, width = pixels.shape[:2]
        coarse = np.random.default_rng(self.seed).random((height // self.grain + 2, width // self.grain + 2, 2))
        flow = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        flow = (flow - flow.min((0, 1))) / np.maximum(np.ptp(flow, (0, 1)), 1e-6)
        x, y = flow[..., 0] * (width - 1), flow[..., 1] * (height - 1)
        made: Pixels = cv2.remap(pixels, x, y, cv2.INTER_LINEAR)
        return made


def _cells(width: int, height: int, side: int) -> tuple[int, int]:
    """Return (columns, rows) of a grid of squares, at least one of each."""
    return max(1, round(width / side)), max(1, round(height / side))
