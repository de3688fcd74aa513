"""Inpainting with Stable Diffusion 1.5's networks (random weights): editkit against the diffusers pipeline, on a CPU.

Whole processes, from start (imports and loading included) to the file written, alternating, `--repeats` times; the
smallest time of each counts, and its largest peak memory. Same folder, picture, mask of about 15 %, prompt, seed,
sampler (ddim) and number of steps. Two clocks: the wall's, which means something on an idle machine only, and the
processor seconds of the process. What does not depend on the number of steps is in both, so few steps favour nobody but
whoever starts fast.

Before each process the processor itself is asked what it does at that moment: one 3x3 convolution of these networks in
fp32 and in bf16. On a virtual machine both move, and not together, since the units for bf16 are shared with neighbours.

    python benchmarks/diffusers_cpu.py                # 4.3 GB of disk, 9 of memory, a quarter of an hour
    python benchmarks/diffusers_cpu.py --calls 7                     # the UNet alone, alternating in one process
    python benchmarks/diffusers_cpu.py --tiny                       # a check that it runs
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red door in a brick wall"

THEIRS = """
import sys
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
folder, photo, mask, steps, out = sys.argv[1:]
pipe = StableDiffusionInpaintPipeline.from_pretrained(folder)
image = pipe(
    prompt="{prompt}", image=Image.open(photo), mask_image=Image.open(mask), num_inference_steps=int(steps),
    width=Image.open(photo).width, height=Image.open(photo).height, generator=torch.Generator().manual_seed(0),
).images[0]
image.save(out)
""".replace("{prompt}", PROMPT)


def build(folder: Path, tiny: bool) -> None:
    """An inpainting folder (9 channels) of Stable Diffusion 1.5's sizes, or a tiny one; random weights."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    sys.path.insert(0, str(ROOT / "tests"))
    import tiny_latent

    torch.manual_seed(0)
    scheduler = DDIMScheduler.from_config(tiny_latent.SD)
    if tiny:
        tiny_latent.save_sd(folder, scheduler, in_channels=9)
        return
    unet = UNet2DConditionModel(sample_size=64, in_channels=9, cross_attention_dim=768)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            projection_dim=768, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        )
    )  # fmt: skip
    StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=text, tokenizer=tiny_latent.tokenizer(), unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def scene(folder: Path, size: int) -> None:
    """photo.png, `size` pixels a side, from the first demonstration photograph, and mask.png, 15 % of it."""
    photo = Image.open(next(iter(sorted((ROOT / "assets" / "photos").glob("*.jpg"))))).convert("RGB")
    side = min(photo.size)
    photo.crop((0, 0, side, side)).resize((size, size), Image.Resampling.LANCZOS).save(folder / "photo.png")
    mask = np.zeros((size, size), np.uint8)
    hole = round(size * 0.15**0.5)
    mask[size // 3 : size // 3 + hole, size // 4 : size // 4 + hole] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def measured(command: list[str]) -> tuple[float, float, float]:
    """(seconds, processor seconds, peak memory in GB) of a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{said}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def rates(seconds: float = 1.0) -> tuple[float, float]:
    """What a 3x3 convolution of 320 channels on 2 x 64 x 64 does now, in TFLOP/s: (fp32, bf16), medians."""
    import torch

    found = []
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 320, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
        convolve = torch.nn.Conv2d(320, 320, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)
        times = []
        with torch.inference_mode():
            convolve(x)
            while sum(times) < seconds:
                start = time.perf_counter()
                convolve(x)
                times.append(time.perf_counter() - start)
        found.append(2 * 2 * 320 * 320 * 9 * 64 * 64 / statistics.median(times) / 1e12)
    return found[0], found[1]


def calls(model: Path, count: int) -> dict[str, list[float]]:
    """Seconds of a call of the UNet at 512 x 512 with both halves of guidance, alternating in this process, `count`
    times after a first one: whatever the machine does meets all of them.
    """
    import torch
    from diffusers import UNet2DConditionModel

    from editkit.models.fast.blocks import attends_once, load_unet
    from editkit.models.files.layout import Layout

    cpu, layout = torch.device("cpu"), Layout(str(model), model)
    networks = {
        "diffusers, fp32": UNet2DConditionModel.from_pretrained(model / "unet").eval(),
        "editkit, fp32": load_unet(layout, torch.float32, cpu),
        "editkit, bf16": load_unet(layout, torch.bfloat16, cpu),
    }
    found: dict[str, list[float]] = {name: [] for name in networks}
    x, words = torch.randn(1, 9, 64, 64).repeat(2, 1, 1, 1), torch.randn(2, 77, 768)
    with torch.inference_mode():
        for turn in range(count + 1):
            for name, network in networks.items():
                told = (
                    {"copies": 2} if attends_once(network) else None
                )  # both halves see the same latents, as in an edit
                given = x.to(network.dtype), torch.tensor([500.0] * 2), words.to(network.dtype)
                start = time.perf_counter()
                network(*given, cross_attention_kwargs=told, return_dict=False)
                if turn:
                    found[name].append(time.perf_counter() - start)
    return found


def psnr(a: Path, b: Path) -> float:
    """Peak signal-to-noise ratio of two pictures, dB."""
    x, y = (np.asarray(Image.open(p).convert("RGB"), np.float64) for p in (a, b))
    error = float(((x - y) ** 2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--calls", type=int, default=0, help="only the UNet, so many alternating calls (9 GB)")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the model is built, or was built before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        model = arguments.folder or work / "model"
        if not (model / "model_index.json").is_file():
            build(model, arguments.tiny)
        if arguments.calls:
            for name, seconds in calls(model, arguments.calls).items():
                each = ", ".join(f"{value:.2f}" for value in seconds)
                print(f"{name}: median {statistics.median(seconds):.2f} s ({each})", flush=True)
            return
        scene(work, 64 if arguments.tiny else 512)
        ours = [
            str(Path(sys.executable).with_name("editkit")), "inpaint", str(work / "photo.png"),
            "--mask", str(work / "mask.png"),
            "--model", str(model), "--prompt", PROMPT, "--sampler", "ddim", "--steps", str(arguments.steps),
            "--offline", "--force", "--quiet",
        ]  # fmt: skip
        theirs = [sys.executable, "-c", THEIRS, str(model), str(work / "photo.png"), str(work / "mask.png")]
        commands = {
            "diffusers": [*theirs, str(arguments.steps), str(work / "diffusers.png")],
            "editkit, full frame": [*ours, "--canvas", "full", "-o", str(work / "full.png")],
            "editkit, crop to the mask": [*ours, "--canvas", "crop", "-o", str(work / "crop.png")],
            "editkit, full frame, fp32": [*ours, "--canvas", "full", "--dtype", "fp32", "-o", str(work / "fp32.png")],
        }
        results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.repeats):
            for name, command in commands.items():
                rate = rates()
                results[name].append(measured(command))
                figures = ", ".join(f"{value:.1f}" for value in results[name][-1])
                at = f"convolutions before it: fp32 {rate[0]:.2f}, bf16 {rate[1]:.2f} TFLOP/s"
                print(f"{name}: {figures}; {at}, {rate[1] / rate[0]:.1f} times", file=sys.stderr, flush=True)
        wall, processor = (min(found[k] for found in results["diffusers"]) for k in (0, 1))
        print(f"{arguments.steps} steps; load of the machine at the end: {os.getloadavg()[0]:.1f}\n")
        print("| | seconds | times as fast | processor seconds | times as few | peak memory, GB |")
        print("|---|---|---|---|---|---|")
        for name, found in results.items():
            seconds, busy, memory = min(r[0] for r in found), min(r[1] for r in found), max(r[2] for r in found)
            ratios = wall / seconds, processor / busy
            print(f"| {name} | {seconds:.1f} | {ratios[0]:.2f} | {busy:.1f} | {ratios[1]:.2f} | {memory:.2f} |")
        print(f"\nfull frame, default numbers against fp32: {psnr(work / 'full.png', work / 'fp32.png'):.1f} dB")


if __name__ == "__main__":
    main()
