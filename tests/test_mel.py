"""examples/sound/mel.py: the exact step for observations that are not linear, and a waveform from a mel spectrogram."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "sound"))

import autoregressive as ar
import mel as example
from mel import Explained, Mel, Stationary, difference_db, minimize, spectrum, waves
from repair import write
from scipy.io import wavfile
from voice import voice

from editkit import sample
from editkit.models import Gaussian
from editkit.plugin import Conditioning

RATE, N = 8_000, 24
AR = ar.Autoregression(np.array([1.2, -0.7]), np.ones(3))


def ring(power):
    """The covariance (N, N) of a stationary Gaussian in a ring."""
    row = torch.fft.irfft(power.to(torch.complex128), n=N)
    return torch.stack([row.roll(k) for k in range(N)])


def test_a_stationary_gaussian_is_the_gaussian_of_its_covariance():
    power = spectrum(AR, N)
    C, x_t = ring(power), torch.randn(3, 1, N, generator=torch.Generator().manual_seed(1))
    assert float(C[0, 0]) == pytest.approx(1.0)
    level = Stationary(power, N).schedule.levels(10)[6]
    one, two = (
        m(x_t, level, [Conditioning()])[0] for m in (Stationary(power, N), Gaussian(torch.zeros(1, N), C.float()))
    )
    assert torch.allclose(one.x0, two.x0, atol=1e-5)
    assert torch.allclose(one.eps, two.eps, atol=1e-5)


def test_in_a_long_ring_an_autoregression_has_its_own_covariance():
    """Yule and Walker: r_k = a_1 r_{k-1} + a_2 r_{k-2}."""
    r = torch.fft.irfft(spectrum(AR, 999).to(torch.complex128), n=999)
    assert r[0] == pytest.approx(1.0)
    for k in range(1, 9):
        assert float(r[k]) == pytest.approx(1.2 * float(r[k - 1]) - 0.7 * float(r[abs(k - 2)]), abs=1e-9)


def test_a_linear_observation_is_explained_exactly():
    """The same samples as `Given`, whose posterior is exact: L-BFGS ends where the linear solver does."""
    power = spectrum(AR, N)
    A = torch.randn(9, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 3.0
    y = A @ torch.randn(N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    given = ar.Given(A=A, y=y[None], covariance=ring(power), sigma=0.3)
    explained = Explained(of=lambda x: x @ A.T, y=y[None], spectrum=power, sigma=0.3, rounds=40)
    one, two = (
        sample(Stationary(power, N), plugin, shape=(2, 1, N), sampler="ddpm", steps=6, seed=1)
        for plugin in (given, explained)
    )
    assert float((one - two).abs().max()) < 1e-3
    assert float((one[0] - one[1]).abs().max()) > 0.1


def test_bands_share_all_frequencies_and_a_tone_is_in_its_own():
    mel = Mel(RATE)
    assert torch.allclose(mel.W.sum(0)[8:-8], torch.ones_like(mel.W.sum(0)[8:-8]), atol=1e-9)
    hertz = torch.linspace(0.0, RATE / 2.0, mel.points // 2 + 1, dtype=torch.float64)
    tone = torch.sin(2.0 * torch.pi * 1000.0 * torch.arange(RATE, dtype=torch.float64) / RATE)
    loudest = int(mel(tone)[:, 40].argmax())
    assert abs(float(hertz[mel.W[loudest].argmax()]) - 1000.0) < 40.0


def test_silence_has_a_gradient():
    x = torch.zeros(RATE // 10, dtype=torch.float64, requires_grad=True)
    Mel(RATE)(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_a_search_ends_at_the_least():
    wanted = torch.arange(5.0, dtype=torch.float64)
    found = minimize(lambda u: ((u - wanted) ** 2 * (1.0 + wanted)).sum(), torch.zeros(5, dtype=torch.float64), 50)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_waveform_from_its_mel_spectrogram_is_nearer_than_griffin_and_lims():
    """By 3 dB and more, in the mel bands and in all frequencies, which nobody told it; each draw is another one."""
    whole = voice(0.3, RATE, 2)
    x, mel = torch.from_numpy(whole / whole.std()), Mel(RATE)
    y = mel(x)
    made = waves(mel, y, voice(0.5, RATE, 3), len(x), draws=2, seed=0, steps=15, rounds=12)
    usual = mel.griffin_lim(y, len(x))
    all_of = lambda z: difference_db(mel.stft(z).abs(), mel.stft(x).abs())  # noqa: E731
    for one in made:
        assert difference_db(mel(one), y) < difference_db(mel(usual), y) - 3.0
        assert all_of(one) < all_of(usual) - 3.0
    assert float((made[0] - made[1]).norm() / made[0].norm()) > 0.1


def test_wav_in_and_out_and_what_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(Path("in.wav"), RATE, voice(0.2, RATE, 2))
    write(Path("like.wav"), RATE, voice(0.5, RATE, 3))
    write(Path("other.wav"), 2 * RATE, voice(0.5, 2 * RATE, 3))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mel.py", *words, "--steps", "4"])
        return example.main()

    assert run("in.wav", "out.wav", "--like", "like.wav") == 0
    rate, made = wavfile.read("out.wav")
    assert (rate, len(made)) == (RATE, 1600)
    assert "dB from those given" in capsys.readouterr().err
    for words, said in ((("none.wav", "o.wav", "--like", "like.wav"), "none.wav: cannot be read as WAV"),
                        (("in.wav", "o.wav", "--like", "other.wav"), "8000, as the source, are needed")):  # fmt: skip
        assert run(*words) == 2
        assert said in capsys.readouterr().err
    assert not Path("o.wav").exists()
