"""How much noise a picture is told to have: a camera's is in the colours, a texture is a change of light."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from editkit_plugins.noise_level import coarse_noise, estimated_noise, picture_noise, white_noise

SIZE = (192, 256)
SIGMA = 12.0


def scene() -> np.ndarray:
    """(H, W, 3): slopes of three colours in [60, 190]."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([60 + 0.5 * x, 180 - 0.6 * y, 100 + 0.2 * (x + y)], axis=-1)


def noisy(soft: float, channels: int, seed: int = 0) -> np.ndarray:
    """The scene with noise of deviation SIGMA, blurred by `soft` pixels; of one channel for all, or of each."""
    noise = np.random.default_rng(seed).normal(size=(*SIZE, channels))
    noise = cv2.GaussianBlur(noise, (0, 0), soft).reshape(*SIZE, channels) if soft else noise
    return np.clip(np.rint(scene() + SIGMA * noise / noise.std()), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_noise_that_hides_from_the_finest_details_is_found_by_its_colours(seed):
    pixels = noisy(0.8, 3, seed)
    assert estimated_noise(pixels) < 0.6 * SIGMA
    assert 0.8 * SIGMA < picture_noise(pixels) <= coarse_noise(pixels)
    assert picture_noise(pixels.astype(np.uint16) * 257) == pytest.approx(picture_noise(pixels), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("soft", "channels"), [(0.0, 3), (0.0, 1), (0.8, 1), (2.0, 1)])
def test_white_noise_and_texture_count_as_white_noise(soft, channels, seed):
    pixels = noisy(soft, channels, seed)
    assert picture_noise(pixels) == white_noise(pixels.astype(float))


def test_a_picture_without_noise_or_colours_has_none():
    assert picture_noise(np.full((32, 32, 3), 90, np.uint8)) == 0.0
    grey = noisy(0.8, 1)[..., :1]
    assert picture_noise(grey) == white_noise(grey.astype(float))


@pytest.mark.parametrize("sigma", [2.0, 15.0, 40.0])
@pytest.mark.parametrize("dark", [False, True])
def test_white_noise_is_found_between_texture_and_in_the_dark(sigma, dark):
    """Two thirds of the picture are texture as fine as noise, or black where half of the noise is clipped away.

    The calmest twentieth has at least 32 blocks of 64 coefficients: one deviation of the estimate is 1.6 per cent.
    """
    rng = np.random.default_rng(3)
    clean = np.full((384, 384, 3), 100.0)
    clean[:256] = 0.0 if dark else 100.0 + 60.0 * rng.choice([-1.0, 1.0], (256, 384, 1))
    pixels = np.clip(np.rint(clean + rng.normal(0.0, sigma, clean.shape)), 0, 255).astype(np.uint8)
    assert white_noise(pixels.astype(float)) == pytest.approx(np.hypot(sigma, 0.29), rel=0.07)
    assert estimated_noise(pixels) != pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("size", [(1, 64), (50, 1), (1, 1), (2, 2), (3, 3), (7, 40)])
def test_an_image_smaller_than_a_block_has_an_estimate(size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    assert np.isfinite(picture_noise(pixels))
