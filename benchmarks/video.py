"""Removal of what passes before a still scene, where the truth is known: `python benchmarks/video.py --photos DIR`.

Three clips are made of photographs: a camera that moves over one of them in a known way, and a piece cut from another
that passes. For each: PSNR in the hole of editkit's video, and of the same edit frame by frame; flicker, the mean
difference between neighbouring frames after the camera's own motion is undone, as a ratio to the truth's; seconds; the
largest memory. `--sheet FILE` writes frames of all of it.

`--track`: the mask of the first frame alone, which follows. `--lengths 5,10,20` instead: seconds and largest memory of
the command on the first clip so long each, in a process of its own. `--noise` instead: flicker of `sdedit` over the
clips without anything that passes, with noise that stays where it is and with noise that goes along.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from editkit import edit
from editkit.editing.video import Together, edit_video
from editkit.models.leasing import Models
from editkit.pictures.files.clips import Clip
from editkit.plugin.chain import Chain
from editkit.plugins import Remove, SDEdit

RATE = 25
TURN = 5.0
"""Seconds after which the clips of `--lengths` go backward."""

EVERY = 6
"""Frame by frame only every so many-th frame is edited, which takes long."""


def scene(background: np.ndarray, thing: np.ndarray, size: tuple[int, int], count: int, kind: int):
    """(frames, truth, masks, cameras): `cameras[k]` takes a point of frame k to the photograph."""
    w, h = size
    y, x = np.mgrid[:h, :w]
    scale = 0.7 * min(background.shape[1] / w, background.shape[0] / h)
    frames, truth, masks, cameras = [], [], [], []
    radius = h / 5
    for k in range(count):
        u = k / count
        turn = (0.0, 0.03 * np.sin(6 * u), 0.0)[kind]
        zoom = scale * (1.0, 1.0, 1.0 - 0.1 * u)[kind]
        at = 0.02 * background.shape[1] + u * 0.22 * background.shape[1], 0.05 * background.shape[0] * (1 + u)
        A = np.array(
            [[np.cos(turn) * zoom, -np.sin(turn) * zoom, at[0]], [np.sin(turn) * zoom, np.cos(turn) * zoom, at[1]]]
        )
        cameras.append(A)
        truth.append(cv2.warpAffine(background, A, size, flags=cv2.INTER_AREA | cv2.WARP_INVERSE_MAP))
        cx, cy = (u * 1.1 - 0.05) * w, h * (0.6 + 0.08 * np.sin(9 * u))
        mask = ((x - cx) / radius) ** 2 + ((y - cy) / (1.3 * radius)) ** 2 < 1
        dx = np.clip((x - cx + thing.shape[1] / 2).astype(int), 0, thing.shape[1] - 1)
        dy = np.clip((y - cy + thing.shape[0] / 2).astype(int), 0, thing.shape[0] - 1)
        frames.append(np.where(mask[..., None], thing[dy, dx], truth[-1]))
        masks.append(mask)
    return frames, truth, masks, cameras


def save(path: Path, frames) -> Path:
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=RATE)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "bgr0"
        for k, frame in enumerate(frames):
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(format="bgr0")
            made.pts, made.time_base = k, Fraction(1, RATE)
            out.mux(video.encode(made))
        out.mux(video.encode(None))
    return path


def psnr(made, truth, where) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((made[where].astype(float) - truth[where]) ** 2), 1e-9)))


def flicker(frames, cameras, masks) -> float:
    """Mean difference between neighbours in the hole, the later one laid over the earlier by the known camera."""
    found = []
    for k in range(len(frames) - 1):
        a, b = (np.vstack([cameras[j], [0, 0, 1]]) for j in (k, k + 1))
        size = frames[k].shape[1::-1]
        laid = cv2.warpAffine(
            frames[k + 1], (np.linalg.inv(b) @ a)[:2], size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        inside = masks[k].copy()
        inside[:4], inside[-4:], inside[:, :4], inside[:, -4:] = False, False, False, False
        if inside.any():
            found.append(np.abs(laid[inside].astype(float) - frames[k][inside]).mean())
    return float(np.mean(found))


def alone(clip: str, marks: str, out: str) -> None:
    """One removal by the command; prints seconds and the largest memory of this process."""
    from editkit.cli import run
    from editkit.cli.process import configure_process

    configure_process()
    began = time.perf_counter()
    assert run(["remove", clip, "--mask", marks, "-o", out, "--quiet"]) == 0
    seconds = time.perf_counter() - began
    says = Path("/proc/self/status").read_text()  # getrusage counts what the parent had as this process began
    most = int(says.partition("VmHWM:")[2].split()[0]) / 2**10
    count = Clip.open(out).packets()
    print(f"{count / RATE:6.1f} s of video: {seconds:7.1f} s, largest memory {most:6.0f} MiB", flush=True)


def lengths(files: list[Path], size: tuple[int, int], given: list[float]) -> None:
    """The first clip, so long each, a process for each.

    The same `TURN` seconds forward and backward, so that a longer clip is more of the same: where the object crosses
    more slowly instead, other frames show less of what is behind it, and more is invented.
    """
    back, front = (np.asarray(Image.open(files[k % len(files)]).convert("RGB")) for k in (20, 60))
    turn = round(RATE * TURN)
    once, _, marked, _ = scene(back, front, size, turn, 0)
    for seconds in given:
        order = [k % (2 * turn) for k in range(round(RATE * seconds))]
        order = [min(k, 2 * turn - 1 - k) for k in order]
        frames, masks = [once[k] for k in order], [marked[k] for k in order]
        with tempfile.TemporaryDirectory() as folder:
            clip = save(Path(folder) / "in.mkv", frames)
            marks = save(
                Path(folder) / "masks.mkv", [np.repeat((m * 255).astype(np.uint8)[..., None], 3, 2) for m in masks]
            )
            del frames, masks
            code = "import sys; sys.path.insert(0, sys.argv[1]); import video; video.alone(*sys.argv[2:])"
            words = [str(Path(__file__).parent), str(clip), str(marks), str(Path(folder) / "out.mkv")]
            subprocess.run([sys.executable, "-c", code, *words], check=True)


def noises(files: list[Path], size: tuple[int, int], count: int) -> None:
    """Flicker of the whole frame, as a ratio to the truth's; the first frame's edit is the same."""
    edits = Chain.of(SDEdit(strength=0.5)).using(model="pocket", seed=1)
    print(f"{'sdedit, strength 0.5':28s}" + "".join(f"{head:>18s}" for head in ("noise stays", "goes along")))
    for kind, back in enumerate((20, 100, 180)):
        background = np.asarray(Image.open(files[back % len(files)]).convert("RGB"))
        _, truth, _, cameras = scene(background, background[:9, :9], size, count, kind)
        whole = [np.ones(frame.shape[:2], bool) for frame in truth]
        found = []
        with tempfile.TemporaryDirectory() as folder:
            clip = save(Path(folder) / "in.mkv", truth)
            for along in (False, True):
                out = Path(folder) / f"{along}.mkv"
                edit_video(clip, edits, out, together=Together(follow=0.0, noise_along=along))
                made = [frame.pixels for frame in Clip.open(out).frames()]
                found.append(flicker(made, cameras, whole) / flicker(truth, cameras, whole))
        name = f"{files[back % len(files)].stem[:22]} {('pan', 'turn', 'zoom')[kind]}"
        print(f"{name:28s}" + "".join(f"{value:18.2f}" for value in found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--track", action="store_true", help="the mask of the first frame alone, which follows")
    parser.add_argument("--noise", action="store_true", help="noise that goes along against noise that stays")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--lengths", help="seconds of video, as 5,10,20: time and memory alone")
    given = parser.parse_args()
    w, h = (int(v) for v in given.size.split("x"))
    files = sorted(p for p in given.photos.iterdir() if p.suffix.lower() in (".jpg", ".png"))
    if given.lengths:
        lengths(files, (w, h), [float(v) for v in given.lengths.split(",")])
        return
    if given.noise:
        noises(files, (w, h), round(RATE * given.seconds))
        return
    rows = []
    heads = ("in the hole", "by frames", "gain", "flicker", "by frames", "s")
    print(f"{'clip':28s}" + "".join(f"{head:>13s}" for head in heads))
    for kind, (back, front) in enumerate(((20, 60), (100, 140), (180, 220))):
        background, thing = (np.asarray(Image.open(files[k % len(files)]).convert("RGB")) for k in (back, front))
        frames, truth, masks, cameras = scene(background, thing, (w, h), round(RATE * given.seconds), kind)
        with tempfile.TemporaryDirectory() as folder:
            clip = save(Path(folder) / "in.mkv", frames)
            shown = [np.repeat((m * 255).astype(np.uint8)[..., None], 3, 2) for m in masks]
            marks = str(save(Path(folder) / "masks.mkv", shown))
            began = time.perf_counter()
            if given.track:
                marks = str(Path(folder) / "mask.png")
                Image.fromarray(
                    (masks[next(k for k in range(len(masks)) if masks[k].any())] * 255).astype(np.uint8)
                ).save(marks)
            edit_video(clip, Remove(mask=marks), Path(folder) / "out.mkv", together=Together(track=given.track))
            seconds = time.perf_counter() - began
            made = [frame.pixels for frame in Clip.open(Path(folder) / "out.mkv").frames()]
        seen = [k for k in range(0, len(frames), EVERY) if masks[k].any()]
        models, alone = Models(), {}
        for k in (j for first in seen for j in (first, first + 1) if j < len(frames)):
            alone[k] = edit(frames[k], Remove(mask=masks[k]), models=models).pixels
        ours = np.mean([psnr(made[k], truth[k], masks[k]) for k in seen])
        theirs = np.mean([psnr(alone[k], truth[k], masks[k]) for k in seen])
        still = flicker(truth, cameras, masks)
        pairs = [k for k in seen if k + 1 in alone]
        theirs_flicker = np.mean(
            [flicker([alone[k], alone[k + 1]], cameras[k : k + 2], masks[k : k + 2]) for k in pairs]
        )
        name = f"{files[back % len(files)].stem[:22]} {('pan', 'turn', 'zoom')[kind]}"
        figures = (ours, theirs, ours - theirs, flicker(made, cameras, masks) / still, theirs_flicker / still, seconds)
        print(f"{name:28s}" + "".join(f"{value:13.2f}" for value in figures), flush=True)
        for k in (len(frames) // 6, len(frames) // 2, 5 * len(frames) // 6):
            near = min(alone, key=lambda j: abs(j - k))
            rows.append(np.concatenate([frames[near], made[near], alone[near], truth[near]], 1))
    print(f"largest memory of all of it: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    if given.sheet is not None:
        Image.fromarray(np.concatenate(rows)).save(given.sheet)


if __name__ == "__main__":
    main()
