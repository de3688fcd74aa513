"""The same denoiser, degradation, observation and noise give what deepinv's DDRM, DiffPIR and DPS give.

deepinv works in float32 (DPS: float64 around a float32 denoiser), adds 1e-6 to singular values, and picks noise levels
from a table; so results of about 1 agree to 1e-3 (DDRM, DiffPIR) and 1e-4 a move (DPS), not to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from inverse import STD
from torch import Tensor

from editkit import sample
from editkit.diffusion.schedule import Grid, Level, Levels
from editkit.models import Gaussian
from editkit_plugins.restoring.degradations import Blur, Mask
from editkit_plugins.restoring.kernels import gaussian
from editkit_plugins.restoring.solving import Inverse

deepinv = pytest.importorskip("deepinv")
SIZE = (3, 8, 8)
D = 192
ANY = Grid()


@dataclass(frozen=True)
class Table:
    """Given (alpha, sigma), noisiest first."""

    pairs: tuple[tuple[float, float], ...]

    def level(self, t: float) -> Level:
        alpha, sigma = self.pairs[len(self.pairs) - int(t)]
        return Level(t, alpha, sigma, int(t))

    def levels(self, steps: int, spacing: str = "auto", grid: Grid = ANY) -> Levels:
        return (Level(0.0, 1.0, 0.0), *(self.level(float(k)) for k in range(1, steps + 1)))

    def prior_scale(self, level: Level, spacing: str = "auto", grid: Grid = ANY) -> float:
        return 1.0


class Recorded:
    """Noise drawn in turn from a list, the same for both sides."""

    generators = ()

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(4)

    def stream(self, owner: str) -> Recorded:
        return self

    def normal(self, shape) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator)

    def like(self, x: Tensor) -> Tensor:
        return self.normal(x.shape).to(x.dtype)


def covariance() -> Tensor:
    c, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in SIZE), indexing="ij")
    at = torch.stack([0.5 * c.flatten(), y.flatten(), x.flatten()], 1)
    return STD**2 * (torch.exp(-torch.cdist(at, at) / 2.0) + 0.05 * torch.eye(D))


def denoiser(model: Gaussian):
    """E[x | x + sigma n] for pictures of the model's own range, as deepinv calls it."""

    def denoise(x: Tensor, sigma: Tensor | float, *_: object, **__: object) -> Tensor:
        return model(x, Level(0.0, 1.0, max(float(torch.as_tensor(sigma).flatten()[0]), 1e-6)), (None,))[0].x0

    return denoise


def shifted(denoise):
    """The same in deepinv's [0, 1]."""
    return lambda x, sigma, *a, **k: denoise(2.0 * x - 1.0, 2.0 * torch.as_tensor(sigma)) / 2.0 + 0.5


def problem(name: str):
    """(ours, theirs) of a degradation."""
    if name == "mask":
        seen = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.4
        return Mask(seen, SIZE), deepinv.physics.Inpainting(SIZE, mask=seen.float().expand(SIZE), device="cpu")
    kernel = gaussian(0.5)
    return Blur(kernel, SIZE), deepinv.physics.BlurFFT(SIZE, filter=kernel.float()[None, None], device="cpu")


def truth() -> Tensor:
    root = torch.linalg.cholesky(covariance().double()).float()
    return 0.4 * (root @ torch.randn(D, generator=torch.Generator().manual_seed(9))).reshape(1, *SIZE)


@pytest.mark.parametrize("name", ["mask", "blur"])
def test_ddrm(name, monkeypatch):
    """deepinv divides its noise by sqrt(2), which the paper does not: the noise it is given is as much larger."""
    sigma, sigmas = 0.05, [2.0, 1.0, 0.5, 0.25, 0.1, 0.04]
    ours, theirs = problem(name)
    theirs.noise_model = deepinv.physics.GaussianNoise(sigma)
    model = Gaussian(torch.zeros(SIZE), covariance(), Table(tuple((1.0, s) for s in sigmas)))
    y = ours.forward(truth())
    noise = Recorded()
    with monkeypatch.context() as patched:
        # theirs is drawn in the coefficients; white noise of pixels, transformed, is the same noise
        patched.setattr(torch, "randn_like", lambda x: math.sqrt(2.0) * theirs.V_adjoint(noise.normal((1, *SIZE))))
        wanted = deepinv.sampling.DDRM(denoiser(model), sigmas=sigmas)(y.clone(), theirs)
    states = []
    plugin = Inverse(method="ddrm", degradation=ours, y=y, sigma=sigma)
    sample(
        model, plugin, shape=(1, *SIZE), steps=len(sigmas), sampler="ddim", noise=Recorded(),
        watch=lambda state: states.append(state.x0),
    )  # fmt: skip
    torch.testing.assert_close(states[-1], wanted, atol=1e-3, rtol=1e-3)


class From(Inverse):
    """Begins where it is told."""

    name = "from"
    x_t: object

    def hooks(self):
        return type("_From", (super().hooks(),), {"begin": lambda hooks: hooks.plugin.x_t})


@pytest.mark.parametrize("name", ["mask", "blur"])
def test_diffpir(name, monkeypatch):
    """deepinv's prox weighs with 2 rho and its sigma is in [0, 1]: our lam is half of its lambda.

    The paper's prior says nothing of the data's deviation; ours is the paper's where that is endless.
    """
    sigma, lam = 0.1, 2.0
    ours, theirs = problem(name)
    theirs.noise_model = deepinv.physics.GaussianNoise(sigma / 2.0)
    model = Gaussian(torch.zeros(SIZE), 0.05 * covariance())
    y = ours.forward(truth())
    their = deepinv.sampling.DiffPIR(
        shifted(denoiser(model)), deepinv.optim.L2(), sigma=sigma / 2.0, max_iter=8, zeta=0.3, lambda_=lam
    )
    noise = Recorded()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn_like", noise.like)
        theirs_y = ours.forward((truth() + 1.0) / 2.0)
        wanted = 2.0 * their(theirs_y, theirs) - 1.0
    times = [int(their.find_nearest(their.reduced_alpha_cumprod, their.sigmas[k])) for k in their.seq]
    pairs = [(float(their.sqrt_alphas_cumprod[t]), float(their.sqrt_1m_alphas_cumprod[t])) for t in times]
    first = Recorded()
    top = float(their.sigmas[their.seq[0]])
    x = 2.0 * theirs.A_adjoint(theirs_y) - 1.0
    x_t = (x + (top**2 - 4.0 * (sigma / 2.0) ** 2) ** 0.5 * first.like(x)) * float(their.sqrt_alphas_cumprod[-1])
    model.schedule = Table(tuple(pairs))
    model.clip, model.data_std = 1.0, math.inf
    plugin = From(method="diffpir", degradation=ours, y=y, sigma=sigma, lam=lam / 2.0, renew=0.3, x_t=x_t)
    states = []
    sample(
        model, plugin, shape=(1, *SIZE), steps=len(pairs), sampler="ddim", noise=first,
        watch=lambda state: states.append(state.x),
    )  # fmt: skip
    torch.testing.assert_close(states[-2], wanted.float(), atol=1e-3, rtol=1e-3)


def test_dps_move_by_move():
    """deepinv's DPS guides with a constant times d|y - A x0|/dx_t, ours has Algorithm 1's step: given as its constant.

    In its [0, 1] the residual is half of ours.
    """
    sampling = deepinv.sampling
    ours, theirs = problem("mask")
    model = Gaussian(torch.zeros(SIZE), 0.05 * covariance())
    y = ours.forward(truth())
    sde = sampling.VariancePreservingDiffusion(alpha=1.0)
    times = [0.9, 0.7, 0.5, 0.3, 0.1]
    scales = [float(sde.scale_t(t)) for t in times]
    pairs = [(a, a * float(sde.sigma_t(t))) for a, t in zip(scales, times, strict=True)]
    model.schedule = Table(tuple(pairs))
    x = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(2))
    states = []
    plugin = From(
        method="dps", degradation=ours, y=y, zeta=0.3 * len(times) / float(ours.keep.expand(SIZE).sum()) ** 0.5, x_t=x
    )
    noise = Recorded()
    sample(
        model, plugin, shape=(1, *SIZE), steps=len(times), sampler="ddpm", noise=noise,
        watch=lambda state: states.append(state.x),
    )  # fmt: skip
    again = Recorded()
    for k in range(len(times) - 1):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = pairs[k], pairs[k + 1]
        beta = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
        weight = 2.0 * 0.3 * alpha_t / (alpha_s * beta)
        solver = sampling.DDPMSolver(timesteps=torch.tensor(times[k : k + 2], dtype=torch.float64))
        solver.randn_like = again.like
        their = sampling.DPS(shifted(denoiser(model)), solver=solver, weight=2.0 * weight)
        their.data_fidelity.clip = None
        theirs_y = ours.forward((truth() + 1.0) / 2.0)
        moved = their(theirs_y, theirs, x_init=x.double(), denoise_output=False)
        x = (2.0 * moved - 1.0).float()
        torch.testing.assert_close(states[k], x, atol=1e-4, rtol=1e-4)
        x = states[k]
