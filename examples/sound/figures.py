"""Figures of docs/sound.md, its listening file and its picture.

    python examples/sound/figures.py --docs docs/sound

Gaps at fixed places, none chosen. The order and the stretch that coefficients are fitted from were set on other seeds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from autoregressive import Filled, Signal, fill, independent, mirrored
from mel import Mel, difference_db, minimize, waves
from numpy.typing import NDArray
from PIL import Image
from repair import clicks, clipped, halve, wave, write
from scipy.signal import resample_poly, stft
from voice import tones, voice

from editkit.editing.watching.sheets import Tile, sheet

RATE = 8_000
SEED = 11


def snr(truth: Signal, x: Signal, where: NDArray[np.bool_]) -> float:
    """dB, of the samples `where`."""
    return float(10.0 * np.log10((truth[where] ** 2).sum() / ((truth - x)[where] ** 2).sum()))


def holes(n: int, milliseconds: int, apart: float = 0.13) -> NDArray[np.bool_]:
    """A gap every `apart` seconds, from 0.2 s on."""
    lost = np.zeros(n, bool)
    for at in np.arange(0.2, n / RATE - 0.2, apart):
        lost[round(at * RATE) : round(at * RATE) + milliseconds * RATE // 1000] = True
    return lost


def gap_rows(draws: int = 64) -> dict[str, tuple[Signal, NDArray[np.bool_], Filled]]:
    """Prints a row for each recording and length; gives what the listening file is made of."""
    kept = {}
    print("| recording | gap | gaps | silence | straight line | closed form | 64 samples | 64 in pairs | one sample |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, made in (("voice", voice), ("tones", tones)):
        x = made(3.0, RATE, SEED)
        for milliseconds in (10, 20):
            lost = holes(len(x), milliseconds)
            damaged = np.where(lost, 0.0, x)
            alone, paired = (fill(damaged, lost, draws=draws, steps=30, noise=of) for of in (independent, mirrored))
            line = np.interp(np.arange(len(x)), np.flatnonzero(~lost), x[~lost])
            ways = (damaged, line, alone.mean, alone.draws.mean(0), paired.draws.mean(0), alone.draws[0])
            count = int((np.diff(lost.astype(int)) == 1).sum())
            shown = " | ".join(f"{snr(x, way, lost):.2f}" for way in ways)
            print(f"| {name} | {milliseconds} ms | {count} | {shown} |", flush=True)
            kept[f"{name} {milliseconds}"] = (x, lost, alone)
    return kept


def other_rows() -> None:
    """Clicks, clipping and the lost upper half of the spectrum, in the voice."""
    x = voice(2.0, RATE, SEED)
    rng = np.random.default_rng(SEED)
    at = rng.choice(np.arange(200, len(x) - 200), 60, replace=False)
    clicked = x.copy()
    clicked[at] += rng.choice([-1.0, 1.0], 60) * rng.uniform(0.2, 0.6, 60)
    every = np.ones(len(x), bool)
    found = clicks(clicked, 64)
    mended = fill(clicked, found, draws=16, steps=30).draws.mean(0)
    print(f"clicks: {found[at].mean():.0%} of 60 found, {found.mean():.1%} of all samples made anew; "
          f"{snr(x, clicked, every):.1f} dB to {snr(x, mended, every):.1f} dB")  # fmt: skip
    limit = 0.35 * np.abs(x).max()
    cut = np.clip(x, -limit, limit)
    lost, level = clipped(cut)
    held = fill(cut, lost, draws=16, steps=30, clipped=level).draws.mean(0)
    free = fill(cut, lost, draws=16, steps=30).draws.mean(0)
    print(f"clipping at {level:.2f}, {lost.mean():.1%} of the samples: these {snr(x, cut, lost):.1f} dB as they came, "
          f"{snr(x, free, lost):.1f} without the limit, {snr(x, held, lost):.1f} with it")  # fmt: skip
    small, like = halve(x), voice(2.0, RATE, SEED + 1)
    middle = np.zeros(len(x), bool)
    middle[480:-480] = True
    many = wave(small, like, order=64, draws=16, seed=0)
    print(f"wave: {snr(x, resample_poly(small, 2, 1)[: len(x)], middle):.1f} dB by resampling, "
          f"{snr(x, many.mean(0), middle):.1f} the mean of 16 samples, {snr(x, many[0], middle):.1f} one")  # fmt: skip


def mel_rows() -> list[Signal]:
    """Prints a row for each seed of the voice; gives the first: as it was, by Griffin and Lim, and a sample."""
    first: list[Signal] = []
    print("| voice | Griffin and Lim | least squares | sample | without the voice's prior |")
    print("|---|---|---|---|---|")
    for seed in (SEED, SEED + 1, SEED + 2):
        loud = float((whole := voice(1.5, RATE, seed)).std())
        x, mel = torch.from_numpy(whole / loud), Mel(RATE)
        y, n, like = mel(x), len(x), voice(2.0, RATE, seed + 10)
        start = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ways = (
            mel.griffin_lim(y, n),
            minimize(lambda u, mel=mel, y=y: (mel(u) - y).square().sum(), start, 300),
            waves(mel, y, like, n, draws=1, seed=0)[0],
            waves(mel, y, np.random.default_rng(0).standard_normal(RATE), n, draws=1, seed=0)[0],
        )
        heard = [
            f"{difference_db(mel(way), y):.1f} / {difference_db(mel.stft(way).abs(), mel.stft(x).abs()):.1f}"
            for way in ways
        ]
        print(f"| {seed} | {' | '.join(heard)} |", flush=True)
        first = first or [loud * one.numpy() for one in (x, ways[0], ways[2])]
    return first


def spectrogram(x: Signal) -> NDArray[np.uint8]:
    """(frequencies, times, 3), 0 to half the rate from below, 60 dB from black to white."""
    power = np.abs(stft(x, RATE, nperseg=256, noverlap=224)[2])[::-1]
    level = 1.0 + 20.0 * np.log10(power / power.max() + 1e-9) / 60.0
    return np.asarray(Image.fromarray((255.0 * level.clip(0.0, 1.0)).astype(np.uint8)).convert("RGB"))


def save_gap_figures(kept: dict[str, tuple[Signal, NDArray[np.bool_], Filled]], docs: Path) -> None:
    """As it was, with gaps of 20 ms, and filled by a sample."""
    x, lost, found = kept["voice 20"]
    part = slice(0, round(1.5 * RATE))
    parts = {
        "as it was": x[part],
        "gaps of 20 ms": np.where(lost, 0.0, x)[part],
        "filled: one sample of the posterior": found.draws[0][part],
    }
    save_figures(parts, docs / "voice")


def save_figures(parts: dict[str, Signal], path: Path) -> None:
    """The listening file, with half a second of silence between, and the spectrograms: `path` with .wav and .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pause = np.zeros(RATE // 2)
    write(path.with_suffix(".wav"), RATE, np.concatenate([piece for one in parts.values() for piece in (one, pause)]))
    tiles = [Tile(word, spectrogram(one)) for word, one in parts.items()]
    sheet(tiles, columns=1, side=480).save(path.with_suffix(".png"), optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="where the listening file and the picture go")
    parser.add_argument("--mel", action="store_true", help="only what mel.py makes")
    words = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    made = dict(zip(("as it was", "Griffin and Lim", "a sample"), mel_rows(), strict=True))
    if words.docs is not None:
        save_figures(made, words.docs / "mel")
    if not words.mel:
        kept = gap_rows()
        other_rows()
        if words.docs is not None:
            save_gap_figures(kept, words.docs)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
