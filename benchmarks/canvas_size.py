"""Memory and time against the size of the picture, for a hole of the same number of pixels: both follow the hole.

Whole processes of `editkit inpaint`, one a size: peak memory, processor seconds of the process, and the processor
seconds of reading and writing such a picture alone, which a crop cannot save. The model is tiny with random weights
unless `--folder` names one of a window of 512; what is measured is the canvas, not a network.

    python benchmarks/canvas_size.py --plot docs/canvas_size.svg
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIZES = (512, 1024, 2048, 4096)
HOLE = 198
"""15 % of 512 x 512 pixels."""


def scene(folder: Path, size: int) -> None:
    """photo.png of `size` pixels a side and mask.png with the hole near its middle."""
    photo = Image.open(sorted((ROOT / "assets" / "photos").glob("*.jpg"))[0]).convert("RGB")
    side = min(photo.size)
    photo.crop((0, 0, side, side)).resize((size, size), Image.Resampling.BICUBIC).save(folder / "photo.png")
    mask = np.zeros((size, size), np.uint8)
    mask[size // 3 : size // 3 + HOLE, size // 4 : size // 4 + HOLE] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def measured(command: list[str]) -> tuple[float, float]:
    """(processor seconds, peak memory in GB) of a process of its own."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{said}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def files_alone(folder: Path) -> float:
    """Processor seconds of reading the picture and its mask and writing the result, as an edit does."""
    from editkit.pictures.masks import read_mask
    from editkit.pictures.picture import Picture

    began = time.process_time()
    picture = Picture.read(folder / "photo.png")
    read_mask(str(folder / "mask.png"), picture)
    picture.write(folder / "again.png", force=True)
    return time.process_time() - began


def tiny(folder: Path) -> None:
    """A tiny inpainting model with a window of 512."""
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny_latent
    from diffusers import DDIMScheduler

    tiny_latent.save_sd(folder, DDIMScheduler.from_config(tiny_latent.SD), in_channels=9, sample_size=64)


def plot(rows: list[tuple[int, float, float, float]], path: Path) -> None:
    """Time (without files) and memory over the picture's side, each relative to the smallest picture's; both axes are
    logarithmic."""
    width, height, left, bottom = 560, 300, 60, 40
    base_time, base_memory = rows[0][1] - rows[0][2], rows[0][3]
    series = {
        "processor time without reading and writing": ("#2060c0", [(t - f) / base_time for _, t, f, _ in rows]),
        "peak memory": ("#c04020", [m / base_memory for *_, m in rows]),
        "pixels": ("#999999", [(size / rows[0][0]) ** 2 for size, *_ in rows]),
    }
    top = 64

    def at(k: int, value: float) -> str:
        x = left + k * (width - left - 20) / (len(rows) - 1)
        return f"{x:.0f},{height - bottom - math.log2(max(value, 1.0)) / math.log2(top) * (height - bottom - 20):.0f}"

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for value in (1, 2, 4, 8, 16, 32, top):
        x, y = at(0, value).split(",")
        parts.append(f'<text x="{left - 30}" y="{y}" font-size="12">{value}x</text>')
        parts.append(f'<line x1="{x}" y1="{y}" x2="{width - 20}" y2="{y}" stroke="#ddd"/>')
    for k, (size, *_) in enumerate(rows):
        parts.append(f'<text x="{int(at(k, 1).split(",")[0]) - 16}" y="{height - 16}" font-size="12">{size}</text>')
    for n, (name, (colour, values)) in enumerate(series.items()):
        points = " ".join(at(k, value) for k, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 10}" y="{30 + 16 * n}" font-size="12" fill="{colour}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="a model of a window of 512 pixels")
    parser.add_argument("--plot", type=Path, help="where the plot goes (.svg)")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        model = arguments.folder or work / "model"
        if not (model / "model_index.json").is_file():
            tiny(model)
        print("| image | processor seconds | of these for files | peak memory, GB |\n|---|---|---|---|")
        for size in SIZES:
            scene(work, size)
            command = [
                str(Path(sys.executable).with_name("editkit")), "inpaint", str(work / "photo.png"),
                "--mask", str(work / "mask.png"), "--model", str(model), "--prompt", "a red door",
                "--steps", str(arguments.steps), "--offline", "--force", "--quiet", "-o", str(work / "out.png"),
            ]  # fmt: skip
            seconds, memory = measured(command)
            files = files_alone(work)
            rows.append((size, seconds, files, memory))
            print(f"| {size} x {size} | {seconds:.1f} | {files:.1f} | {memory:.2f} |", flush=True)
    if arguments.plot is not None:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
