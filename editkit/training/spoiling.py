"""What happens to the pictures that `denoiser` learns to clean: white noise, a camera's noise, JPEG compression.

All pictures are (B, 3, H, W) in [-1, 1]; levels are in the same unit, 127.5 times as large in levels of 255.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from editkit.pictures.quantisation import quantisation_noise
from editkit.training.draws import Source, uniform_between

KINDS = ("white", "camera", "jpeg")
SHARES = (0.45, 0.3, 0.25)

MOST = 75.0
"""Greatest standard deviation of white noise, in levels of 255."""

SUBSAMPLINGS = (0, 2)
"""Chroma at full and at half the size (4:4:4 and 4:2:0), as Pillow numbers them."""


def white_noise(x0: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Return pictures with white noise, and its levels; those of half of the pictures are clipped and rounded, as in a
    file of 8 bits. Weak noise is drawn more often than strong noise.
    """
    level = MOST / 127.5 * source.uniform(len(x0), 1, 1, 1) ** 1.5
    y = x0 + level * source.normal(*x0.shape)
    filed = source.uniform(len(x0), 1, 1, 1) < 0.5
    return y.where(~filed, rounded(y)), level


def rounded(x: Tensor) -> Tensor:
    """Return pictures clipped and rounded to 8 bits."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def camera_noise(x0: Tensor, source: Source) -> Tensor:
    """Return pictures as a sensor sees them in little light, after a camera's own processing.

    Photons are counted in linear light (variance proportional to the light) and read with white noise; the noise of
    the colours is smoothed as by demosaicking, and more than that of the grey; the tone curve is a power. Strengths,
    widths and the curve are drawn for each picture.
    """
    count = len(x0)
    gamma, photons, read, width, wide, colour = (
        uniform_between(low, high, source, count, 1, 1, 1)
        for low, high in ((1.8, 2.6), (3.4, 7.4), (-5.5, -3.0), (0.0, 0.7), (0.3, 1.6), (0.5, 2.0))
    )
    linear = ((x0 + 1) / 2).clamp(0, 1) ** gamma
    noise = source.normal(*x0.shape) * (linear / photons.exp() + (2 * read).exp()).sqrt()
    grey = noise.mean(1, keepdim=True)
    noise = smoothed(grey, width) + colour * smoothed(noise - grey, wide)
    return (linear + noise).clamp(0, 1) ** (1 / gamma) * 2 - 1


def smoothed(x: Tensor, width: Tensor) -> Tensor:
    """Smooth each picture by a Gaussian of its own standard deviation, (B, 1, 1, 1) in pixels."""
    reach = torch.arange(-5.0, 6.0, device=x.device)
    weight = torch.exp(-0.5 * (reach / width.view(-1, 1).clamp_min(0.05)) ** 2)
    weight = weight / weight.sum(1, keepdim=True)
    channels = x.shape[1]
    kernels = weight.repeat_interleave(channels, 0)
    flat = F.pad(x.reshape(1, -1, *x.shape[2:]), (5, 5, 5, 5), mode="reflect")
    flat = F.conv2d(flat, kernels[:, None, :, None], groups=len(kernels))
    flat = F.conv2d(flat, kernels[:, None, None, :], groups=len(kernels))
    return flat.view_as(x)


def compressed(x: Tensor, quality: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Return pictures as JPEG files of `quality` (B,) show them, and the levels of their quantisation (B, 1, 1, 1).

    The blocks begin at the corner of most pictures, and elsewhere for a quarter, as after cropping.
    """
    u = source.uniform(4, len(x)).cpu().numpy()
    levels, made = torch.empty(len(x), 1, 1, 1), []
    data = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for k, picture in enumerate(data):
        top, left = (int(16 * v) if u[2, k] < 0.25 else 0 for v in u[:2, k])
        shifted = np.pad(picture, ((top, 0), (left, 0), (0, 0)), "symmetric")
        file = io.BytesIO()
        subsampling = SUBSAMPLINGS[int(u[3, k] < 0.6)]
        Image.fromarray(shifted).save(file, "JPEG", quality=int(quality[k]), subsampling=subsampling)
        shown = Image.open(file)
        levels[k] = quantisation_noise(np.array(shown.quantization[0])) / 127.5  # type: ignore[attr-defined]
        made.append(np.asarray(shown)[top:, left:])
    y = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return y.to(x.device), levels.to(x.device)


def spoil(x0: Tensor, counts: list[int], source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Return spoiled pictures, their levels (B, 1, 1, 1), and the index of their kind (B,); the first counts[0] get the
    first kind and so on.
    """
    white, camera, jpeg = torch.split(x0, counts)
    noisy, level = white_noise(white, source)
    parts, levels = [noisy], [level]
    if len(camera):
        y = camera_noise(camera, source)
        filed, _ = compressed(y, uniform_between(75, 99, source, len(camera)), source)
        raw = source.uniform(len(camera), 1, 1, 1) < 0.25
        y = torch.where(raw, rounded(y), filed)
        true = (y - camera).square().mean((1, 2, 3), keepdim=True).sqrt()
        parts.append(y)
        levels.append(true * (0.25 * source.normal(len(camera), 1, 1, 1)).exp())  # an estimate errs
    if len(jpeg):
        y, level = compressed(jpeg, 4 + 61 * source.uniform(len(jpeg)) ** 1.5, source)
        parts.append(y)
        levels.append(level)
    kind = torch.arange(len(KINDS), device=x0.device).repeat_interleave(torch.tensor(counts, device=x0.device))
    return torch.cat(parts), torch.cat(levels), kind
