"""A waveform from its mel spectrogram, as WaveGrad makes one (Chen et al. 2021, arXiv:2009.00713): WAV in, WAV out.

    python examples/sound/mel.py in.wav out.wav --like other.wav

Only the mel spectrogram of in.wav is used. The prior is the autoregression of another recording of the same voice.

A mel spectrogram has no phase: it is not a linear function of the waveform, so `restore`'s linear methods do not apply
as they are. `Explained` takes the step of one of them, diffpir (Zhu et al. 2023, arXiv:2305.08995), for any
differentiable observation: the estimate becomes the most probable x given x_t and y. For a linear observation this is
E[x | x_t, y], as in `Given`. For magnitudes it is the mode that lies nearest to where the search begins.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from autoregressive import Autoregression, Signal, fit, independent
from repair import SoundError, read, write
from torch import Tensor

from editkit import sample
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.gaussian import GaussianMixture
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine, Level
from editkit.plugin import Hooks, Plugin, Step

BANDS = 80
SIGMA = 0.05
"""Deviation of the observed amplitudes, for a recording of deviation 1."""

QUIET = 1e-8
"""Added to powers before their root, whose slope at 0 has no bound."""


class Mel:
    """sqrt(W |STFT x|^2): the amplitudes of x in `BANDS` mel bands, every 12.5 ms, in windows of 50 ms."""

    def __init__(self, rate: int) -> None:
        self.hop, self.window = rate // 80, torch.hann_window(rate // 20, dtype=torch.float64)
        self.points = 1 << (rate // 20 - 1).bit_length()
        hertz = np.linspace(0.0, rate / 2.0, self.points // 2 + 1)
        edges = 700.0 * (10.0 ** (np.linspace(0.0, np.log10(1.0 + rate / 1400.0), BANDS + 2)) - 1.0)  # O'Shaughnessy
        rises, falls = (hertz - edges[:-2, None]) / np.diff(edges)[:-1, None], (edges[2:, None] - hertz)
        self.W = torch.from_numpy(np.minimum(rises, falls / np.diff(edges)[1:, None]).clip(0.0))  # (BANDS, frequencies)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., samples) to (..., BANDS, frames)."""
        return (self.W @ self.stft(x).abs().square() + QUIET).sqrt()

    def stft(self, x: Tensor) -> Tensor:
        return torch.stft(
            x, self.points, self.hop, len(self.window), self.window, pad_mode="constant", return_complex=True
        )

    def griffin_lim(self, y: Tensor, n: int, *, rounds: int = 100, seed: int = 0) -> Tensor:
        """(n,): the usual way (Griffin and Lim 1984, with Perraudin's momentum of 0.99), to compare with.

        Magnitudes are those of the pseudoinverse of W, not below 0; phases begin at random.
        """
        size = (torch.linalg.pinv(self.W) @ y.square()).clamp_min(0.0).sqrt()
        turns = torch.rand(size.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        phase, before = torch.polar(torch.ones_like(turns), 2.0 * torch.pi * turns), torch.zeros_like(size)
        for _ in range(rounds):
            found = self.stft(self._istft(size * phase, n))
            ahead, before = found - 0.99 / 1.99 * before, found
            phase = ahead / ahead.abs().clamp_min(1e-16)
        return self._istft(size * phase, n)

    def _istft(self, X: Tensor, n: int) -> Tensor:
        return torch.istft(X, self.points, self.hop, len(self.window), self.window, length=n)


def spectrum(ar: Autoregression, n: int) -> Tensor:
    """(n / 2 + 1,): the power of an autoregression of variance 1 at the frequencies of n samples in a ring."""
    power = 1.0 / np.abs(np.fft.rfft(np.concatenate([[1.0], -ar.a]), n)) ** 2
    whole = power.sum() + power[1 : (n + 1) // 2].sum()
    return torch.from_numpy(power * n / whole)


def filter_frequencies(x: Tensor, gain: Tensor) -> Tensor:
    """x (..., n) with its frequencies multiplied by `gain` (n / 2 + 1,)."""
    return torch.fft.irfft(torch.fft.rfft(x) * gain, n=x.shape[-1])


class Stationary(GaussianMixture):
    """The exact model of a stationary Gaussian in a ring: its covariance is diagonal in frequencies, of any length.

    Args:
        spectrum: (n / 2 + 1,), the variance of each frequency; their mean over the ring is that of a sample.
    """

    def __init__(self, spectrum: Tensor, n: int) -> None:
        self.spectrum, self.sample_shape = spectrum, (1, n)
        self.schedule, self.data_std = Cosine(), 1.0
        self.info = ModelInfo("gaussian", "stationary Gaussian", sampler="ddpm", steps=100)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        gain = level.alpha * self.spectrum / (level.alpha**2 * self.spectrum + level.sigma**2)
        x0 = filter_frequencies(x_t.double(), gain).to(x_t.dtype)
        return (Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-12)),) * len(conds)


class Explained(Plugin):
    """y = of(x) + sigma n was observed: the estimate becomes the most probable x given x_t and y.

    Args:
        of: a differentiable function of (batch, n). y: what it gave. spectrum: of the prior. All float64.
        sigma: > 0, of the observation's noise.
        rounds: of L-BFGS in each step.
    """

    name: ClassVar[str] = "explained"
    order: ClassVar[int] = 50

    of: Any
    y: Any
    spectrum: Any
    sigma: float
    rounds: int = 16

    def hooks(self) -> type[Hooks[Any]]:
        return ExplainedHooks


class ExplainedHooks(Hooks[Explained]):
    """argmin_u |y - of(x0 + S^1/2 u)|^2 / sigma^2 + |u|^2, with S = Cov[x | x_t], as in `Given`."""

    def clean(self, step: Step, x0: Tensor) -> Tensor:
        plugin, t = self.plugin, step.t
        root = (plugin.spectrum * t.sigma**2 / (t.alpha**2 * plugin.spectrum + t.sigma**2)).sqrt()
        middle = x0.flatten(1).double()

        def loss(u: Tensor) -> Tensor:
            missed = plugin.of(middle + filter_frequencies(u, root)) - plugin.y
            return missed.square().sum() / plugin.sigma**2 + u.square().sum()

        u = minimize(loss, torch.zeros_like(middle), plugin.rounds)
        return (middle + filter_frequencies(u, root)).to(x0.dtype).reshape(x0.shape)


def minimize(loss: Callable[[Tensor], Tensor], start: Tensor, rounds: int) -> Tensor:
    """Where L-BFGS arrives from `start`."""
    with torch.enable_grad():
        u = start.clone().requires_grad_()
        search = torch.optim.LBFGS([u], max_iter=rounds, history_size=10, line_search_fn="strong_wolfe")

        def evaluated() -> Tensor:
            search.zero_grad()
            value = loss(u)
            value.backward()
            return value

        search.step(evaluated)
    return u.detach()


def waves(
    mel: Mel, y: Tensor, like: Signal, n: int, *, draws: int, seed: int, steps: int = 30, rounds: int = 16
) -> Tensor:
    """(draws, n): waveforms of deviation about 1 whose mel amplitudes are `y`, each with noise of its own."""
    power = spectrum(fit(like, np.zeros(len(like), bool), 32), n)
    plugin = Explained(of=mel, y=y, spectrum=power, sigma=SIGMA, rounds=rounds)
    made = [
        sample(Stationary(power, n), plugin, shape=(1, 1, n), sampler="ddpm", spacing="log-snr", steps=steps,
               noise=independent(seed * 1_000_003 + k))
        for k in range(draws)
    ]  # fmt: skip
    return torch.cat(made)[:, 0].double()


def difference_db(found: Tensor, wanted: Tensor) -> float:
    """dB of the difference between amplitudes, relative to those wanted; the lower the better."""
    return float(20.0 * torch.log10((found - wanted).norm() / wanted.norm()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--like", type=Path, required=True, help="another recording of the same voice, at the same rate"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    words = parser.parse_args()
    try:
        (rate, x), (other, like) = read(words.source), read(words.like)
        if other != rate:
            raise SoundError(f"{words.like}: has {other} samples a second; {rate}, as the source, are needed")
    except SoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    mel, loud = Mel(rate), float(x.std())
    y = mel(torch.from_numpy(x / loud))
    made = waves(mel, y, like, len(x), draws=1, seed=words.seed, steps=words.steps)[0]
    print(f"mel amplitudes: {difference_db(mel(made), y):.1f} dB from those given", file=sys.stderr)
    write(words.target, rate, made.numpy() * loud)
    return 0


if __name__ == "__main__":
    sys.exit(main())
