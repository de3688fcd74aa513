"""examples/sound: an autoregressive Gaussian as exact prior, its posterior in closed form, and the command."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "sound"))

import autoregressive as ar
import repair
from scipy.io import wavfile
from voice import tones, voice

from editkit import sample
from editkit.models import Gaussian
from editkit_plugins.restoring.degradations import Mask
from editkit_plugins.restoring.solving import Inverse

RATE = 8_000


def process(n, a=(1.6, -0.9), seed=0):
    """x_n = a_1 x_{n-1} + a_2 x_{n-2} + e_n, begun long before."""
    from scipy.signal import lfilter

    return lfilter([1.0], [1.0, -a[0], -a[1]], np.random.default_rng(seed).standard_normal(n + 500))[500:]


def snr(truth, x, where):
    return 10.0 * np.log10((truth[where] ** 2).sum() / ((truth - x)[where] ** 2).sum())


def lost(n, *spans):
    where = np.zeros(n, bool)
    for start, stop in spans:
        where[start:stop] = True
    return where


def test_burg_finds_the_coefficients_and_the_autocovariances():
    """Within five of their own deviations, (1 - a_2^2)^1/2 / n^1/2 (Brockwell and Davis 1991, 8.1)."""
    found = ar.burg([process(20_000)], 2)
    assert found.a == pytest.approx([1.6, -0.9], abs=5.0 * (1.0 - 0.81) ** 0.5 / 20_000**0.5)
    C = found.covariance(6)
    assert np.abs(C - C.T).max() == 0.0
    for k in range(1, 6):  # Yule and Walker; the floor is on the diagonal alone
        before = np.abs(k - 1 - np.arange(2))
        r = np.where(before == 0, C[0, 0] / (1.0 + ar.FLOOR), C[0, before])
        assert C[0, k] == pytest.approx(found.a @ r, abs=1e-6 * C[0, 0])


def test_stretches_of_one_signal_are_fitted_together():
    """The errors of two stretches add up: a gap between them costs no more than its samples."""
    x = process(8_000)
    whole = ar.fit(x, np.zeros(len(x), bool), 2)
    cut = ar.fit(np.where(lost(8_000, (3000, 3200)), 99.0, x), lost(8_000, (3000, 3200)), 2)
    assert cut.a == pytest.approx(whole.a, abs=0.02)


def test_janssens_interpolation_is_the_posterior_mean():
    x = process(400)
    gap = lost(400, (200, 220))
    found = ar.burg([x], 2)
    C = found.covariance(400)
    known = ~gap
    mean = C[np.ix_(gap, known)] @ np.linalg.solve(C[np.ix_(known, known)], x[known])
    assert ar.interpolate(np.where(gap, 0.0, x), gap, found)[gap] == pytest.approx(mean, abs=1e-4 * x.std())


def small(n=24):
    found = ar.burg([process(4_000)], 2)
    return torch.from_numpy(found.covariance(n) / found.r[0])


def test_given_is_the_exact_posterior_of_any_observation():
    """Mean and covariance of 40,000 draws; the bounds are six of their deviations."""
    C = small()
    A = torch.zeros(9, 24, dtype=torch.float64)
    A[torch.arange(8), torch.tensor([0, 1, 2, 3, 14, 15, 22, 23])] = 1.0
    A[8, 6:10] = 0.25
    y = A @ torch.from_numpy(process(24, seed=5) / process(4_000).std())
    plugin = ar.Given(A=A, y=y[None], covariance=C)
    x = torch.from_numpy(ar.drawn_from(C, [plugin], 40_000, ar.independent(3), 60))
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T)
    mean, spread = gain @ y, C - gain @ A @ C
    assert float((x @ A.T - y).abs().max()) < 1e-4
    size = float(spread.trace())
    assert float((x.mean(0) - mean).norm()) < 0.01 * size**0.5 + 6.0 * (size / 40_000) ** 0.5
    assert float(torch.linalg.norm(torch.cov(x.T) - spread)) < 0.03 * size


def test_given_is_pigdm_with_the_covariance():
    """`restore`'s own solver, for a mask: the same samples but for its likelihood without noise."""
    C, y = small().float(), torch.from_numpy(process(24, seed=5)).float().reshape(1, 1, 1, 24) / 3.0
    keep = torch.ones(1, 1, 24)
    keep[..., 9:15] = 0.0
    solver = Inverse(method="pigdm", degradation=Mask(keep, (1, 1, 24)), y=keep * y, covariance=C)
    given = ar.Given(
        A=torch.eye(24, dtype=torch.float64)[keep.flatten() > 0], y=y.flatten()[keep.flatten() > 0][None].double(),
        covariance=C.double(),
    )  # fmt: skip
    one, two = (
        sample(Gaussian(torch.zeros(1, 1, 24), C), plugin, shape=(8, 1, 1, 24), sampler="dpm++2m", steps=100, seed=2)
        for plugin in (solver, given)
    )
    assert float((one - two).norm() / two.norm()) < 0.02


@pytest.mark.parametrize("made", [voice, tones])
def test_the_mean_of_64_samples_is_within_a_tenth_of_a_decibel_of_the_closed_form(made):
    x = made(1.0, RATE, 3)
    gaps = lost(RATE, (2000, 2080), (4000, 4160), (6000, 6080))
    found = ar.fill(np.where(gaps, 0.0, x), gaps, draws=64, steps=30, noise=ar.mirrored)
    assert snr(x, found.draws.mean(0), gaps) == pytest.approx(snr(x, found.mean, gaps), abs=0.1)
    line = np.interp(np.arange(RATE), np.flatnonzero(~gaps), x[~gaps])
    assert snr(x, found.mean, gaps) > snr(x, line, gaps)
    assert (found.draws[:, ~gaps] == x[~gaps]).all()
    assert found.draws[:, gaps].std(0).min() > 0.0


def test_mirrored_noise_is_fair_and_its_mean_is_zero():
    z = ar.mirrored(1).stream("sampler").normal((6, 1, 500))
    assert torch.equal(z[:3], -z[3:])
    assert float(z.std()) == pytest.approx(1.0, abs=0.1)
    assert ar.mirrored(1).stream("x").normal((5, 2)).shape == (5, 2)


def test_long_losses_are_filled_from_left_to_right():
    """A gap longer than a window, at the beginning and at the end: everything is filled, and goes on where it began."""
    x = process(4_000)
    gaps = lost(4_000, (0, 30), (900, 1900), (3980, 4000))
    found = ar.fill(np.where(gaps, 0.0, x), gaps, order=16, draws=4, steps=8)
    assert np.isfinite(found.draws).all()
    assert found.draws[:, gaps].std() == pytest.approx(x.std(), rel=0.3)
    assert (found.draws[:, ~gaps] == x[~gaps]).all()


def test_too_little_is_known():
    with pytest.raises(ValueError, match="100 samples are known; at least 256 are needed for 64 coefficients"):
        ar.fill(np.zeros(400), lost(400, (100, 400)))


def test_clipped_samples_come_back_beyond_the_limit():
    x = voice(0.15, RATE, 2)
    limit = 0.4 * np.abs(x).max()
    cut = np.clip(x, -limit, limit)
    where, level = repair.clipped(cut)
    assert level == pytest.approx(limit)
    found = ar.fill(cut, where, order=32, draws=2, steps=15, clipped=level)
    side = np.sign(x[where])
    assert (side * found.draws[:, where] >= level * (1.0 - 1e-4)).all()
    assert snr(x, found.draws.mean(0), where) > snr(x, cut, where)


def test_clicks_are_found():
    x = tones(0.5, RATE, 2)
    at = np.arange(300, 3900, 200)
    clicked = x.copy()
    clicked[at] += 0.3
    found = repair.clicks(clicked, 64)
    assert found[at].all()
    assert found.mean() < 0.1


def test_halving_is_the_filter_as_a_matrix():
    x = process(200)
    assert repair.halving(200).numpy() @ x == pytest.approx(repair.halve(x))


def test_wave_explains_what_was_heard():
    x, like = voice(0.1, RATE, 2), voice(0.5, RATE, 3)
    small_ = repair.halve(x)
    found = repair.wave(small_, like, order=32, draws=2, seed=0, steps=15)
    assert found.shape == (2, len(x))
    inside = slice(20, len(small_) - 20)
    again = np.stack([repair.halve(one) for one in found])
    assert np.abs(again[:, inside] - small_[inside]).max() < 0.02 * np.abs(small_).max()
    assert np.abs(found[0] - found[1]).max() > 0.0


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = voice(0.15, RATE, 2)
    repair.write(Path("in.wav"), RATE, x)
    repair.write(Path("cut.wav"), RATE, np.clip(x, -0.4, 0.4))
    repair.write(Path("small.wav"), RATE // 2, repair.halve(x))
    wavfile.write("two.wav", RATE, np.zeros((4000, 2), np.int16))
    wavfile.write("silent.wav", RATE, np.zeros(4000, np.int16))
    wavfile.write("short.wav", RATE, np.ones(40, np.int16))
    Path("text.wav").write_text("no sound")


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["repair.py", *words])
    return repair.main()


@pytest.mark.parametrize(
    "words",
    [["gap", "in.wav", "out.wav", "--at", "0.1-0.11"], ["clicks", "in.wav", "out.wav"],
     ["clipping", "cut.wav", "out.wav"], ["wave", "small.wav", "out.wav", "--like", "in.wav"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_wav_in_and_out(recordings, monkeypatch, words):
    assert command(monkeypatch, *words) == 0
    rate, x = wavfile.read("out.wav")
    assert (rate, x.dtype, len(x)) == (RATE, np.int16, 1200)
    if words[0] == "gap":
        before = wavfile.read("in.wav")[1]
        where = lost(1200, (800, 880))
        assert (x[~where] == before[~where]).all()
        assert (x[where] != before[where]).any()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gap", "none.wav", "o.wav", "--at", "0-1"], "none.wav: cannot be read as WAV"),
        (["gap", "text.wav", "o.wav", "--at", "0-1"], "text.wav: cannot be read as WAV"),
        (["clicks", "two.wav", "o.wav"], "has 2 channels"),
        (["clicks", "silent.wav", "o.wav"], "is silent"),
        (["clicks", "short.wav", "o.wav"], "has 40 samples; a tenth of a second (800) is needed"),
        (["gap", "in.wav", "o.wav"], "gap needs --at"),
        (["gap", "in.wav", "o.wav", "--at", "x"], "--at x: write it as 0.50-0.52"),
        (["gap", "in.wav", "o.wav", "--at", "0.1-0.9"], "lies not within the recording's 0.15 seconds"),
        (["gap", "in.wav", "o.wav", "--at", "0.0-0.15"], "0 samples are known"),
        (["clipping", "in.wav", "o.wav"], "it was not clipped"),
        (["wave", "small.wav", "o.wav"], "wave needs --like"),
        (["wave", "in.wav", "o.wav", "--like", "in.wav"], "in.wav: has 8000 samples a second; 16000, twice"),
    ],
)
def test_bad_input_is_one_line(recordings, monkeypatch, capsys, words, line):
    assert command(monkeypatch, *words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert line in said[-1]
    assert not Path("o.wav").exists()
