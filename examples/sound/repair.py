"""Mend a recording with its own autoregressions as prior: WAV in, WAV out.

    python examples/sound/repair.py gap in.wav out.wav --at 0.50-0.52 --at 1.2-1.21
    python examples/sound/repair.py clicks in.wav out.wav
    python examples/sound/repair.py clipping in.wav out.wav
    python examples/sound/repair.py wave small.wav out.wav --like whole.wav

`wave` gives back the upper half of the spectrum of a recording at half its rate, as WaveGrad (Chen et al. 2021) makes a
waveform from what is left of it: a sample of the posterior, whose prior is a whole recording of the same voice. What is
left here is a linear function of the waveform; mel.py begins with a mel spectrogram, which is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from autoregressive import Given, Signal, drawn_from, fill, fit, independent
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import firwin

CLICK = 5.0
"""Errors of prediction that are so many robust deviations large are clicks."""

HEARD = 0.001
"""The noise in what `wave` is told, as a share of its loudness: where stretches meet, the same is told twice."""

EDGE = 48
"""Samples at the end of a stretch that the next one makes again: what is heard of them lies partly beyond."""

STRETCH = 320
"""Samples that `wave` makes at once, at the whole rate."""


class SoundError(Exception):
    """What a user can act on, in one line."""


def read(path: Path) -> tuple[int, Signal]:
    """Rate, and samples in [-1, 1] of one channel.

    Raises:
        SoundError: no such file, no WAV, several channels, silence, less than a tenth of a second.
    """
    try:
        rate, x = wavfile.read(path)
    except (OSError, ValueError) as error:
        raise SoundError(f"{path}: cannot be read as WAV: {error}") from None
    if x.ndim > 1:
        raise SoundError(f"{path}: has {x.shape[1]} channels; mend them one by one")
    if len(x) < rate // 10:
        raise SoundError(f"{path}: has {len(x)} samples; a tenth of a second ({rate // 10}) is needed to learn from")
    whole = np.issubdtype(x.dtype, np.integer)
    middle = 128.0 if x.dtype == np.uint8 else 0.0
    y = (x.astype(np.float64) - middle) / (128.0 if x.dtype == np.uint8 else np.iinfo(x.dtype).max if whole else 1.0)
    if not np.isfinite(y).all() or not y.any():
        raise SoundError(f"{path}: is silent, or holds NaN; there is nothing to learn from")
    return int(rate), y


def write(path: Path, rate: int, x: Signal) -> None:
    """As 16 bit; what lies beyond them makes all of it quieter, and clips nothing."""
    wavfile.write(path, rate, np.round(32767.0 * x / max(1.0, np.abs(x).max())).astype(np.int16))


def gaps(spans: list[str], rate: int, n: int) -> NDArray[np.bool_]:
    """True within spans `from-to`, in seconds."""
    lost = np.zeros(n, bool)
    for span in spans:
        try:
            start, stop = (round(float(word) * rate) for word in span.split("-"))
        except ValueError:
            raise SoundError(f"--at {span}: write it as 0.50-0.52, in seconds") from None
        if not 0 <= start < stop <= n:
            raise SoundError(f"--at {span}: lies not within the recording's {n / rate:.2f} seconds")
        lost[start:stop] = True
    return lost


def clicks(x: Signal, order: int) -> NDArray[np.bool_]:
    """Where samples are foretold neither by those before nor by those after them, and their neighbours.

    Godsill and Rayner 1998, ch. 5; a click spoils what is foretold for `order` samples, in one direction each.
    """
    ar = fit(x, np.zeros(len(x), bool), order)
    before, after = np.abs(ar.error(x)), np.abs(ar.error(x[::-1])[::-1])
    large = np.minimum(before, after) > CLICK * 1.4826 * np.median(before)
    large[:order] = large[-order:] = False
    return np.convolve(large, np.ones(3), "same") > 0.5


def clipped(x: Signal) -> tuple[NDArray[np.bool_], float]:
    """Where the recording stands at its largest value, and that value.

    Raises:
        SoundError: it stands there at fewer than three samples: nothing was clipped.
    """
    limit = float(np.abs(x).max())
    lost = np.abs(x) > 0.999 * limit
    if lost.sum() < 3:
        raise SoundError(f"only {lost.sum()} samples are at the largest value, {limit:.3f}; it was not clipped")
    return lost, limit


def halve(x: Signal) -> Signal:
    """x at half its rate."""
    return np.convolve(x, firwin(31, 0.5), "same")[::2]


def halving(n: int) -> torch.Tensor:
    """(n / 2, n): `halve` as a matrix, a low-pass filter of 31 taps and every second sample; 0 beyond."""
    taps = firwin(31, 0.5)
    rows = np.zeros((n // 2, n))
    for k in range(n // 2):
        for j, tap in enumerate(taps):
            at = 2 * k + j - len(taps) // 2
            if 0 <= at < n:
                rows[k, at] = tap
    return torch.from_numpy(rows)


def wave(small: Signal, like: Signal, *, order: int, draws: int, seed: int, steps: int = 30) -> Signal:
    """(draws, 2 len(small)): recordings at twice the rate of which `small` is what `halving` leaves.

    Stretch by stretch with overlaps, each given the samples that are made already. The prior is the autoregression of
    `like`, a whole recording at that rate, made as loud as each stretch is.
    """
    keep = STRETCH // 2
    n = STRETCH + keep * max(-(-(2 * len(small) - STRETCH) // keep), 0)
    out = np.zeros((draws, n))
    padded = np.concatenate([small, np.zeros(n // 2 - len(small))])
    ar = fit(like, np.zeros(len(like), bool), order)
    unit = torch.from_numpy(ar.covariance(STRETCH) / ar.r[0])
    A = halving(STRETCH)
    inner = slice(8, len(A) - 8)  # rows that see nothing beyond the stretch
    for start in range(0, n - STRETCH + 1, keep):
        y = padded[start // 2 : start // 2 + len(A)]
        told = A[inner] @ unit @ A[inner].T
        loud = float(np.sqrt(max(np.mean(y**2), 1e-10) / float(told.diagonal().mean())))
        rows, known = [A[inner]], [np.tile(y[inner], (draws, 1))]
        if start:
            made = STRETCH - keep - EDGE
            rows.append(torch.eye(STRETCH, dtype=torch.float64)[:made])
            known.append(out[:, start : start + made])
            rows[0], known[0] = rows[0][made // 2 - 16 :], known[0][:, made // 2 - 16 :]
        given = Given(
            A=torch.cat(rows), y=torch.from_numpy(np.concatenate(known, 1) / loud), covariance=unit, sigma=HEARD
        )
        drawn = drawn_from(unit, [given], draws, independent(seed * 1_000_003 + start), steps) * loud
        at = STRETCH - keep - EDGE if start else 0
        out[:, start + at : start + STRETCH] = drawn[:, at:]
    return out[:, : 2 * len(small)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["gap", "clicks", "clipping", "wave"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--at", action="append", default=[], help="gap: from-to in seconds; may be given again")
    parser.add_argument("--like", type=Path, help="wave: a whole recording of the same voice, at the whole rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=1, help="their mean is written")
    words = parser.parse_args()
    try:
        rate, x = repair_recording(words)
    except (SoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write(words.target, rate, x)
    return 0


def repair_recording(words: argparse.Namespace) -> tuple[int, Signal]:
    """Rate and samples of the result."""
    rate, x = read(words.source)
    order = max(rate // 125, 32)
    if words.what == "wave":
        if words.like is None:
            raise SoundError("wave needs --like, a whole recording of the same voice at twice the rate")
        whole, like = read(words.like)
        if whole != 2 * rate:
            raise SoundError(
                f"{words.like}: has {whole} samples a second; {2 * rate}, twice those of the small one, are needed"
            )
        return whole, wave(x, like, order=order, draws=words.draws, seed=words.seed).mean(0)
    limit = None
    if words.what == "gap":
        lost = gaps(words.at, rate, len(x))
        if not lost.any():
            raise SoundError("gap needs --at, such as --at 0.50-0.52")
    elif words.what == "clicks":
        lost = clicks(x, order)
    else:
        lost, limit = clipped(x)
    print(f"{int(lost.sum())} of {len(x)} samples are made anew", file=sys.stderr)
    found = fill(x, lost, order=order, draws=words.draws, seed=words.seed, steps=30, clipped=limit)
    return rate, found.draws.mean(0)


if __name__ == "__main__":
    sys.exit(main())
