"""DiffPure: adversarial noise against a classifier, washed out by `purify` with the embedded network.

    python benchmarks/diffpure.py --photos ../shared/photos
    python benchmarks/diffpure.py --photos ../shared/photos --list dev.txt --sigmas 10 20 30

Photographs as the classifier is given them (256 on the shorter side, the middle 224 x 224 pixels); its own label of
each is the truth. The attack is PGD (Madry et al. 2018, arXiv:1706.06083) against torchvision's MobileNetV2, 10 steps
of eps / 4 within eps of 255 (4/255, as DiffPure's for ImageNet), away from that label; pictures it does not move are
left out. Said for each depth (noise in levels of 255), sampler (ddpm walks back with noise, ddim without; in one step
it is the network's estimate at t*, as in Carlini et al. 2022, arXiv:2206.10550) and number of samples that the result
is the mean of (`--estimate mean`): how many attacked pictures get their label back, and how many clean ones keep it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import weights
from PIL import Image, ImageOps
from torch import Tensor

from editkit import edit
from editkit.models.leasing import Models
from editkit.plugins import Purify

ROOT = Path(__file__).resolve().parent.parent


class Classifier:
    """MobileNetV2 on pictures in [0, 1] of any size."""

    def __init__(self) -> None:
        from torchvision.models import mobilenet_v2

        self.network = mobilenet_v2()
        self.network.load_state_dict(torch.load(weights(), map_location="cpu", weights_only=True))
        self.network.eval().requires_grad_(False)
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        large = F.interpolate(x, (224, 224), mode="bilinear", align_corners=False)
        logits: Tensor = self.network((large - self.mean) / self.std)
        return logits

    def label(self, picture: np.ndarray) -> int:
        with torch.no_grad():
            return int(self(as_tensor(picture)).argmax())


def as_tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255.0


def attacked(picture: np.ndarray, classify: Classifier, eps: float) -> np.ndarray:
    """PGD within `eps` levels of 255, away from the classifier's own label."""
    x, radius = as_tensor(picture), eps / 255.0
    label = classify(x).argmax(1)
    start = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    moved = (x + radius * (2.0 * start - 1.0)).clamp(0, 1)
    for _ in range(10):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(classify(moved), label), moved)
        moved = moved.detach() + radius / 4.0 * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, x - radius), x + radius).clamp(0, 1)
    return (moved[0].permute(1, 2, 0).numpy() * 255.0).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--list", type=Path, default=ROOT / "assets" / "pocket" / "heldout.txt")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--eps", type=float, default=4.0)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[8.0, 15.0, 25.0])
    parser.add_argument("--samplers", nargs="+", default=["ddpm"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--samples", type=int, nargs="+", default=[1])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--sheet", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    classify, models, pairs = Classifier(), Models(), []
    lines = (line.split("#")[0].strip() for line in chosen.list.read_text().splitlines())
    for name in (line for line in lines if line):
        with Image.open(chosen.photos / name) as opened:
            fitted = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), (round(chosen.side * 256 / 224),) * 2)
        first = (fitted.width - chosen.side) // 2
        clean = np.asarray(fitted)[first : first + chosen.side, first : first + chosen.side]
        bad = attacked(clean, classify, chosen.eps)
        if classify.label(bad) != classify.label(clean):
            pairs.append((clean, bad))
        if len(pairs) == chosen.count:
            break
    print(f"{len(pairs)} photographs of {chosen.side}x{chosen.side} whose label PGD (eps {chosen.eps:g}/255) changes\n")
    print("| noise added, sampler, samples | attacked: label back | clean: label kept | processor seconds |")
    print("|---|---|---|---|")
    rows = [np.concatenate([clean for clean, _ in pairs], 1), np.concatenate([bad for _, bad in pairs], 1)]
    for sampler, samples, sigma in itertools.product(chosen.samplers, chosen.samples, chosen.sigmas):
        began, back, kept, washed = time.process_time(), 0, 0, []
        for clean, bad in pairs:
            options = {"model": "pocket", "sampler": sampler, "steps": chosen.steps, "models": models}
            options |= {"estimate": "mean", "samples": samples} if samples > 1 else {}
            pure = [edit(picture, Purify(sigma=sigma), **options).pixels for picture in (clean, bad)]
            label = classify.label(clean)
            kept += classify.label(pure[0]) == label
            back += classify.label(pure[1]) == label
            washed.append(pure[1])
        rows.append(np.concatenate(washed, 1))
        n, seconds = len(pairs), time.process_time() - began
        setting = f"{sigma:g}/255, {sampler} in {chosen.steps}, {samples}"
        print(f"| {setting} | {back} of {n} | {kept} of {n} | {seconds:.0f} |", flush=True)
    if chosen.sheet is not None:
        chosen.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows, 0)).save(chosen.sheet)


if __name__ == "__main__":
    main()
