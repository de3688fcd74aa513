"""Measure a trained network on held-out photographs: reproducible figures and sheets.

Every window is one random crop of one held-out photograph (fixed by the seed). Peak signal-to-noise ratios
are those of the mean squared error over all windows together, in dB, for pictures of range 2.
"""

from __future__ import annotations

import json
import logging
import math
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from editkit.errors import EditkitError
from editkit.models.pocket.residual import HOLE, LUMA, luma
from editkit.pictures.filling import smooth_fill
from editkit.training.conditions import blur
from editkit.training.device import has_bf16
from editkit.training.draws import Seeded
from editkit.training.fast import use_fast_operations
from editkit.training.masks import box, ellipse, strokes
from editkit.training.network import Pocket, check_free, load, to_dtype, write_atomically
from editkit.training.pictures import Photograph, crop, load_collection
from editkit.training.sheets import grid, solve

log = logging.getLogger(__name__)
Figures = dict[str, float]
FILES = (
    *(f"{sheet}.png" for sheet in ("inpaint", "inpaint2", "refine", "upscale", "colorize", "prior")), "figures.json",
)  # fmt: skip
"""The files of a report."""


def psnr(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    """Return `10 log10(4 / mse)` over all pixels, or those where `where` (broadcast) is not 0."""
    error = (a - b).square()
    weights = torch.ones_like(error) if where is None else (where > 0).to(error.dtype).expand_as(error)
    return 10 * math.log10(4 / max(1e-10, float((error * weights).sum() / weights.sum())))


def with_luma(x0: Tensor, grey: Tensor) -> Tensor:
    """Combine the sample's colour with the given luma: `x0 - luma(x0) + grey`, exact within the range."""
    return x0 - luma(x0) + grey


def chroma_error(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference of colour without luma, for range 2."""
    return float(((a - luma(a)) - (b - luma(b))).square().mean().sqrt())


class Report:
    """A network, the windows for measuring it, and the folder for sheets."""

    def __init__(
        self,
        network: Pocket,
        heldout: tuple[Photograph, ...],
        folder: Path,
        steps: int,
        samples: int,
        seed: int,
    ) -> None:
        self.network, self.folder, self.steps, self.samples, self.seed = network, folder, steps, samples, seed
        crops = Generator().manual_seed(seed + 1)
        self.x0 = torch.stack([crop(p, network.architecture.window, crops) for p in heldout])
        self.one = torch.full_like(self.x0[:, :1], HOLE)

    def draw(self, task: str, condition: Tensor, mask: Tensor) -> Tensor:
        """Draw `samples` samples of every window, (samples, B, 3, H, W)."""
        generators = [Generator().manual_seed(self.seed * 1000 + k) for k in range(self.samples)]
        return torch.stack([solve(self.network, task, condition, mask, g, self.steps) for g in generators])

    def mean(self, task: str, condition: Tensor, mask: Tensor) -> Tensor:
        """Return the network's estimate of the mean, E[x0 | condition]: one step from pure noise, (B, 3, H, W)."""
        return solve(self.network, task, condition, mask, Generator().manual_seed(self.seed), 1)

    def save(self, name: str, rows: list[Tensor], columns: int = 16) -> None:
        """Save a sheet of the first windows."""
        path, data = self.folder / f"{name}.png", BytesIO()
        grid([row[:columns] for row in rows]).save(data, "PNG", optimize=True)
        write_atomically(path, data.getvalue())
        log.info("%s", path)

    def inpainting(self) -> Figures:
        """Measure holes of 25-60 % of the side: sample and mean against the smooth fill, inside the hole."""
        source = Seeded(Generator().manual_seed(self.seed + 2))
        size, count = self.x0.shape[-1], len(self.x0)
        drawn = torch.stack([f(count, size, source) for f in (box, ellipse, strokes)])
        mask = drawn[torch.arange(count) % 3, torch.arange(count)]
        condition = smooth_fill(self.x0, mask)
        found = self.draw("inpaint", condition, mask)
        shown = torch.where(mask > 0, torch.ones_like(self.x0), self.x0)
        self.save("inpaint", [self.x0, shown, condition, *found[:2]])
        if count > 16:
            self.save("inpaint2", [z[16:] for z in (self.x0, shown, condition, *found[:2])])
        return {
            "smooth_fill_psnr": psnr(condition, self.x0, mask),
            "sample_psnr": sum(psnr(z, self.x0, mask) for z in found) / len(found),
            "mean_psnr": psnr(found.mean(0), self.x0, mask),
            "one_step_psnr": psnr(self.mean("inpaint", condition, mask), self.x0, mask),
            "sharpness_sample": _sharpness(found[0], mask) / _sharpness(self.x0, mask),
            "sharpness_smooth_fill": _sharpness(condition, mask) / _sharpness(self.x0, mask),
        }

    def refining(self) -> Figures:
        """Measure holes that contain an enlarged coarser picture (mask 0.5)."""
        mask = box(len(self.x0), self.x0.shape[-1], Seeded(Generator().manual_seed(self.seed + 3))) * 0.5
        coarse = blur(self.x0, torch.full((len(self.x0),), 2.0))
        condition = torch.where(mask > 0, coarse, self.x0)
        found = self.draw("inpaint", condition, mask)
        self.save("refine", [self.x0, condition, *found[:1]])
        return {
            "bicubic_psnr": psnr(condition, self.x0, mask),
            "sample_psnr": sum(psnr(z, self.x0, mask) for z in found) / len(found),
            "mean_psnr": psnr(found.mean(0), self.x0, mask),
            "sharpness_sample": _sharpness(found[0], mask) / _sharpness(self.x0, mask),
            "sharpness_bicubic": _sharpness(condition, mask) / _sharpness(self.x0, mask),
        }

    def upscaling(self) -> Figures:
        """Measure twofold upscaling after antialiased bicubic reduction."""
        small = blur(self.x0, torch.full((len(self.x0),), 2.0))
        found = self.draw("upscale", small, self.one)
        self.save("upscale", [self.x0, small, found[0], found.mean(0)])
        return {
            "bicubic_psnr": psnr(small, self.x0),
            "sample_psnr": sum(psnr(z, self.x0) for z in found) / len(found),
            "mean_psnr": psnr(found.mean(0), self.x0),
            "one_step_psnr": psnr(self.mean("upscale", small, self.one), self.x0),
        }

    def colouring(self, mean_colour: Tensor) -> Figures:
        """Measure the colour errors of grey, of the training photographs' mean colour, of the window's own mean
        colour, and of the network.
        """
        grey = luma(self.x0)
        found = torch.stack([with_luma(z, grey) for z in self.draw("colorize", grey, self.one)])
        self.save("colorize", [self.x0, grey, found[0].clamp(-1, 1), found.mean(0).clamp(-1, 1)])
        own = (self.x0 - grey).mean(dim=(2, 3), keepdim=True)
        return {
            "grey_error": chroma_error(grey, self.x0),
            "mean_colour_error": chroma_error(grey + mean_colour, self.x0),
            "own_mean_colour_error": chroma_error(grey + own, self.x0),
            "sample_error": sum(chroma_error(z, self.x0) for z in found) / len(found),
            "mean_error": chroma_error(found.mean(0), self.x0),
            "one_step_error": chroma_error(with_luma(self.mean("colorize", grey, self.one), grey), self.x0),
        }

    def prior(self, training: tuple[Photograph, ...], per_photograph: int = 60) -> Figures:
        """Draw samples without conditions, and below each the nearest of many training crops (by 16x16
        thumbnails).
        """
        zeros = torch.zeros_like(self.x0[:16])
        found = solve(self.network, "prior", zeros, self.one[:16], Generator().manual_seed(self.seed), 2 * self.steps)
        generator = Generator().manual_seed(self.seed + 4)
        best = torch.full((len(found),), math.inf)
        nearest = torch.zeros_like(found)
        keys = F.avg_pool2d(found, found.shape[-1] // 16).flatten(1)
        for photograph in training:
            crops = torch.stack([crop(photograph, found.shape[-1], generator) for _ in range(per_photograph)])
            distance = torch.cdist(keys, F.avg_pool2d(crops, found.shape[-1] // 16).flatten(1))
            value, index = distance.min(dim=1)
            closer = value < best
            best[closer], nearest[closer] = value[closer], crops[index[closer]]
        self.save("prior", [found, nearest])
        side = math.sqrt(keys.shape[1])
        return {
            "nearest_crop_rms_min": float(best.min()) / side,
            "nearest_crop_rms_mean": float(best.mean()) / side,
        }


def _sharpness(x0: Tensor, mask: Tensor) -> float:
    """Return the energy of the Laplacian in the hole."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)
    response = F.conv2d(F.pad(x0, (1, 1, 1, 1), mode="replicate"), kernel, groups=3).square()
    inside = (mask > 0).float().expand_as(response)
    return float((response * inside).sum() / inside.sum())


def make_report(
    model: Path, images: Path, output: Path, heldout: Path, steps: int, samples: int, seed: int, force: bool = False
) -> dict[str, Figures]:
    """Write sheets and figures.json; return the figures.

    Raises:
        EditkitError: there is no network, no pictures, or no list of held-out ones; or a file exists and `force` is not
            set.
    """
    check_free(output, FILES, force)
    network = load(model)
    use_fast_operations(network.unet)
    to_dtype(network, torch.bfloat16 if has_bf16(torch.device("cpu")) else torch.float32)
    network.eval()
    collection = load_collection(images, network.architecture.window, heldout)
    if not collection.heldout:
        raise EditkitError(f"{heldout}: names no picture to measure on")
    report = Report(network, collection.heldout, output, steps, samples, seed)
    colours = torch.stack([p.levels[-1].float().mean(dim=(1, 2)) / 127.5 - 1 for p in collection.training]).mean(0)
    mean_colour = (colours - (colours * torch.tensor(LUMA)).sum()).view(1, 3, 1, 1)
    figures = {
        "inpaint": report.inpainting(),
        "refine": report.refining(),
        "upscale": report.upscaling(),
        "colorize": report.colouring(mean_colour),
        "prior": report.prior(collection.training),
    }
    figures = {task: {name: round(value, 4) for name, value in row.items()} for task, row in figures.items()}
    write_atomically(output / "figures.json", (json.dumps(figures, indent=2) + "\n").encode())
    return figures
