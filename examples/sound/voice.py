"""Sounds to try it on: a voice by formants, in the manner of Klatt (1980), and a mixture of tones. No recordings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

VOWELS = {"a": (730, 1090, 2440), "i": (270, 2290, 3010), "u": (300, 870, 2240), "e": (530, 1840, 2480)}
"""Hz of the first three formants of a man's vowels (Peterson and Barney 1952)."""

WIDTHS = (80.0, 110.0, 160.0)
"""Hz."""


def voice(seconds: float, rate: int = 16_000, seed: int = 0) -> NDArray[np.float64]:
    """Vowels that glide into each other, at a falling and trembling pitch, with breath; peak 0.7."""
    rng, n = np.random.default_rng(seed), round(seconds * rate)
    time = np.arange(n) / rate
    pitch = 125.0 - 12.0 * time + 4.0 * np.sin(2.0 * np.pi * 5.0 * time) + 8.0 * np.sin(2.0 * np.pi * 0.9 * time)
    phase = np.cumsum(pitch / rate) % 1.0
    opened = np.where(phase < 0.6, phase / 0.6, 0.0)
    flow = opened**2 * (1.0 - opened)  # the glottis opens slowly and shuts at once
    source = np.diff(flow, prepend=0.0) + 0.0005 * rng.standard_normal(n)
    order = rng.permutation(list(VOWELS)).tolist() * (int(seconds / 0.25 / len(VOWELS)) + 2)
    out, block = source, rate // 200
    for k, width in enumerate(WIDTHS):
        hertz = np.interp(time, 0.25 * np.arange(len(order)), [VOWELS[vowel][k] for vowel in order])
        state, made = np.zeros(2), []
        for at in range(0, n, block):  # a resonator whose frequency moves every 5 ms
            r, angle = np.exp(-np.pi * width / rate), 2.0 * np.pi * hertz[at] / rate
            poles = [1.0, -2.0 * r * np.cos(angle), r * r]
            piece, state = lfilter([sum(poles)], poles, out[at : at + block], zi=state)
            made.append(piece)
        out = np.concatenate(made)
    return np.asarray(0.7 * out / np.abs(out).max())


def tones(seconds: float, rate: int = 16_000, seed: int = 0) -> NDArray[np.float64]:
    """Eight tones that beat and swell, 65 dB above white noise; peak 0.7."""
    rng, n = np.random.default_rng(seed), round(seconds * rate)
    time = np.arange(n) / rate
    out = 0.0005 * rng.standard_normal(n)
    for hertz in rng.uniform(150.0, 3500.0, 8):
        swell = 1.0 + 0.3 * np.sin(2.0 * np.pi * rng.uniform(0.5, 2.0) * time + rng.uniform(0.0, 6.0))
        out += rng.uniform(0.3, 1.0) * swell * np.sin(2.0 * np.pi * hertz * time + rng.uniform(0.0, 6.0))
    return np.asarray(0.7 * out / np.abs(out).max())
