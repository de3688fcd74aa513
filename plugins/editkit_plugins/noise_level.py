"""Estimates of a picture's noise, in levels of 255, from the picture alone.

Noise is measured in the diagonal Haar coefficients d of 2x2 pixels, where photographs have least (Donoho & Johnstone
1994). Texture as fine as noise would count as noise, so only the blocks with the weakest texture are measured (Liu,
Tanaka & Okutomi 2013): weakest in the other coefficients, which are independent of d for white noise, so that choosing
by them does not bias the estimate. Blocks with clipped pixels are left out, since clipping removes noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from editkit.plugin import largest

SIDE = 16
"""Side of a block, in pixels."""

CALM = 0.05
"""The fraction of the blocks that is measured."""

FEWEST = 32
"""Measure at least this many blocks; a picture with fewer ones is measured as a whole."""

CLIPPED = 0.01
"""A block with more clipped pixels than this fraction is left out."""

BANDS, CALM_IN_BAND, FEWEST_IN_BAND = 6, 0.15, 16
"""A camera's noise depends on the brightness: bands of brightness, and the same two numbers within each."""

LEAST_COLOUR, CORRELATED = 1.0, 1.5
"""Least coarse chroma noise that counts as a camera's: in levels of 255, and relative to fine chroma noise."""

SHARE, HIDDEN = 1.6, 1.1
"""A camera's noise, relative to its coarse chroma noise, which chroma subsampling in JPEG reduces; and relative to its
noise in d (1.1 is the mean of 14 photographs with the noise of benchmarks/defaults.py)."""


def estimated_noise(pixels: np.ndarray, top: float | None = None) -> float:
    """Estimate the standard deviation of a picture's noise, in levels of 255, from its finest diagonal details.

    The estimate is median |d| / 0.6745 over the whole picture; texture as fine as noise counts as noise. `pixels` is
    (H, W, channels); `top` is the value of white (default: the largest value of the data type).
    """
    height, width = (n // 2 * 2 for n in pixels.shape[:2])
    x = pixels[:height, :width].astype(np.float64) * (255.0 / (top or largest(pixels.dtype)))
    d = (x[::2, ::2] - x[1::2, ::2] - x[::2, 1::2] + x[1::2, 1::2]) / 2.0
    return float(np.median(np.abs(d)) / 0.6745) if d.size else 0.0


def coarse_noise(pixels: np.ndarray) -> float:
    """Estimate the noise at half the picture's size, times 2: equal to `estimated_noise` for white noise.

    After demosaicking, smoothing and compression, a camera's noise is correlated over several pixels. Most of it is
    then missing from the finest details, and halving the size reduces it by less than half.
    """
    return 2.0 * estimated_noise(halved(pixels * (255.0 / largest(pixels.dtype))), 255.0)


def halved(x: np.ndarray) -> np.ndarray:
    """Return (H, W, channels) at half the size: means of 2x2 pixels."""
    height, width = (n // 2 * 2 for n in x.shape[:2])
    made: np.ndarray = x[:height, :width].reshape(height // 2, 2, width // 2, 2, x.shape[2]).mean((1, 3))
    return made


def colour_noise(pixels: np.ndarray) -> tuple[float, float]:
    """Estimate the noise of the differences between channels, divided by sqrt 2: (fine, coarse), in levels of 255.

    Coarse noise is measured at half the picture's size, times 2. Texture is mostly a change of brightness, the same in
    all channels; a sensor's noise is not.
    """
    x = pixels[..., :3].astype(np.float64) * (255.0 / largest(pixels.dtype))
    if x.shape[-1] < 3:
        return 0.0, 0.0
    apart = (x - np.roll(x, 1, axis=-1)) / np.sqrt(2.0)
    return estimated_noise(apart, 255.0), 2.0 * estimated_noise(halved(apart), 255.0)


class Blocks(NamedTuple):
    """The blocks of a picture, of each channel: d (n, coefficients), texture, brightness, and clipped fraction (n,)."""

    d: np.ndarray
    texture: np.ndarray
    brightness: np.ndarray
    clipped: np.ndarray


def blocks_of(x: np.ndarray) -> Blocks:
    """Return the whole blocks of x, (H, W, channels) in levels of 255."""
    height, width = (n // SIDE * SIDE for n in x.shape[:2])
    x = x[:height, :width].astype(np.float64)
    a, b, c, d = x[::2, ::2], x[1::2, ::2], x[::2, 1::2], x[1::2, 1::2]
    mean = _split((a + b + c + d) / 2.0)
    steps = [np.square(np.diff(mean, axis=axis)).mean((1, 2)) / 2.0 for axis in (1, 2)]
    edges = [np.square(_split(band / 2.0)).mean((1, 2)) for band in (a + b - c - d, a - b + c - d)]
    clipped = _split((x <= 0.0) | (x >= 255.0), SIDE).mean((1, 2))
    diagonal = _split((a - b - c + d) / 2.0)
    texture = np.sum([*steps, *edges], axis=0)
    return Blocks(diagonal.reshape(len(diagonal), (SIDE // 2) ** 2), texture, mean.mean((1, 2)) / 2.0, clipped)


def _split(x: np.ndarray, side: int = SIDE // 2) -> np.ndarray:
    """Split (H, W, channels) into squares (n, side, side)."""
    height, width, channels = x.shape
    parts = x.reshape(height // side, side, width // side, side, channels)
    return parts.transpose(0, 2, 4, 1, 3).reshape(-1, side, side)


def deviation(d: np.ndarray) -> float:
    """Return the standard deviation of d, of which outliers count as three deviations.

    The median alone would be a multiple of half a level, since pixels are whole levels.
    """
    within = 3.0 * np.median(np.abs(d)) / 0.6745
    return float(np.sqrt(np.square(np.minimum(np.abs(d), within)).mean()))


def white_noise(x: np.ndarray) -> float:
    """Estimate the standard deviation of white noise in x, (H, W, channels) in levels of 255."""
    found = blocks_of(x)
    if len(found.texture) < FEWEST:
        return estimated_noise(x, 255.0)
    kept = found.clipped <= CLIPPED
    if kept.sum() < max(FEWEST, 0.02 * len(kept)):
        kept = found.clipped <= np.quantile(found.clipped, 0.1)
    return _calmest(found.d[kept], found.texture[kept], CALM, FEWEST)


def _calmest(d: np.ndarray, texture: np.ndarray, share: float, fewest: int) -> float:
    """Return the deviation of the blocks with the weakest texture."""
    chosen = np.argsort(texture, kind="stable")[: max(fewest, round(share * len(d)))]
    return deviation(d[chosen])


def varying_noise(x: np.ndarray) -> float:
    """Estimate noise that depends on the brightness, (H, W, channels) in levels of 255: the root mean square over
    `BANDS` equal parts of the blocks, by brightness. Bands that are textured everywhere count too high.
    """
    found = blocks_of(x)
    if len(found.texture) < BANDS * FEWEST_IN_BAND:
        return estimated_noise(x, 255.0)
    order = np.argsort(found.brightness, kind="stable")
    bands = np.array_split(order, BANDS)
    each = [_calmest(found.d[band], found.texture[band], CALM_IN_BAND, FEWEST_IN_BAND) for band in bands]
    return float(np.sqrt(np.square(each).mean()))


def picture_noise(pixels: np.ndarray) -> float:
    """Estimate the standard deviation of a picture's noise, in levels of 255, including a camera's coarse noise.

    A camera's noise is recognised by its colours: differences between channels that are noisier at half the size than
    at full size. It depends on the brightness, and some of it is coarser than d. Otherwise coarse detail counts as
    texture, and the noise as white. `pixels` is (H, W, channels) of any data type.
    """
    x = pixels.astype(np.float64) * (255.0 / largest(pixels.dtype))
    fine, (sharp, colour) = white_noise(x), colour_noise(pixels)
    if colour < max(LEAST_COLOUR, CORRELATED * sharp):
        return fine
    coarse = min(2.0 * varying_noise(halved(x)), coarse_noise(pixels), SHARE * colour)
    return max(fine, HIDDEN * varying_noise(x), coarse)
