"""Every sampler against its diffusers scheduler, step for step: the engine's states against a bare loop.

A case fails with the first step that differs. The network is small and random: this proves the update rules, the
ladders of levels and the order of random draws, nothing else.

The grid is computed in float64 on both sides (from diffusers' own float32 table of alpha-bar; its sigmas are not
rounded again), because in float32 either side may lose more than the tolerance where alpha_t or sigma_t is nearly 0.
`test_in_float32` compares both as they are used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny import TinyModel, TinyNet
from torch import Tensor

from editkit import sample
from editkit.diffusion.noise import Noise, OneStream, Stream
from editkit.diffusion.prediction import PredictionType
from editkit.diffusion.samplers import SAMPLERS, make_sampler
from editkit.engine.loop import State
from editkit.errors import UsageError

SHAPE = (2, 3, 8, 8)
TOLERANCE = 1e-5
BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero-snr": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                 "rescale_betas_zero_snr": True},
}  # fmt: skip
KINDS: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
KARRAS = (
    diffusers.EulerDiscreteScheduler, diffusers.EulerAncestralDiscreteScheduler, diffusers.HeunDiscreteScheduler,
)  # fmt: skip
"""These keep u = x / alpha between steps."""
NO_DRAWS = (
    diffusers.HeunDiscreteScheduler, diffusers.UniPCMultistepScheduler, diffusers.FlowMatchEulerDiscreteScheduler,
)  # fmt: skip
STEPS = (4, 20, 30)
"""30 does not divide 1000."""


@dataclass(frozen=True)
class DoubleStream:
    """The float32 draws of another stream in float64."""

    inner: Stream

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        return self.inner.generators

    def normal(self, shape: Any) -> Tensor:
        return self.inner.normal(shape).double()


@dataclass(frozen=True)
class DoubleNoise:
    """One generator for all draws, in float64."""

    inner: Noise

    def stream(self, owner: str) -> Stream:
        return DoubleStream(self.inner.stream(owner))


def ours(
    config: dict[str, Any],
    sampler: str,
    steps: int,
    kind: PredictionType,
    dtype: torch.dtype = torch.float64,
    **more: Any,
) -> list[Tensor]:
    """The engine's states after every move, with one generator for all draws."""
    states: list[State] = []
    model = TinyModel(config, kind, **more)
    model.net.to(dtype)
    one: Noise = OneStream.seeded(7)
    spacing = config.get("timestep_spacing", "auto")
    sample(
        model, shape=SHAPE, sampler=sampler, steps=steps, spacing=spacing,
        noise=one if dtype == torch.float32 else DoubleNoise(one), watch=states.append, device="cpu",
    )  # fmt: skip
    return [state.x for state in states]


def theirs(
    scheduler: Any, steps: int, channels: int = 3, dtype: torch.dtype = torch.float64, **step: Any
) -> list[Tensor]:
    """A bare diffusers loop: the states between steps, in x_t = alpha_t x0 + sigma_t eps."""
    generator = torch.Generator().manual_seed(7)
    net = TinyNet(channels).to(dtype)
    if hasattr(scheduler, "alphas_cumprod") and dtype == torch.float64:
        table = diffusers.DDPMScheduler.from_config(scheduler.config).alphas_cumprod.to(dtype)
        table[-1] = torch.where(table[-1] > 0, table[-1], scheduler.alphas_cumprod[-1])  # 2^-24 in some, for zero-snr
        scheduler.alphas_cumprod = table
    scheduler.set_timesteps(steps)
    for table in ("alphas_cumprod", "sigmas", "final_alpha_cumprod"):
        if hasattr(scheduler, table):
            setattr(scheduler, table, getattr(scheduler, table).to(dtype))
    x = torch.randn(SHAPE, generator=generator).to(dtype) * scheduler.init_noise_sigma
    draws = {} if isinstance(scheduler, NO_DRAWS) else {"generator": generator}
    states = []
    for k, t in enumerate(scheduler.timesteps):
        out = net(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(out, t, x, **draws, **step).prev_sample
        if scheduler.order == 1 or k % 2 == 1 or k == len(scheduler.timesteps) - 1:
            states.append(x)
    if isinstance(scheduler, KARRAS):
        sigmas = scheduler.sigmas if scheduler.order == 1 else scheduler.sigmas[[0, *range(1, 2 * steps, 2)]]
        states = [u / (1 + r**2) ** 0.5 for u, r in zip(states, sigmas[1:], strict=True)]
    return states


class Float64Torch:
    """torch, whose `float32` is `float64`: for schedulers that cast within a step."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class Float64NumPy:
    """NumPy, whose `float32` is `float64`: for schedulers that round their sigmas."""

    float32 = np.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def single_draws(shape: Any, generator: torch.Generator | None = None, **where: Any) -> Tensor:
    """randn_tensor, drawing in float32 whatever the dtype asked for, as the engine does."""
    return torch.randn(tuple(shape), generator=generator).double()


@pytest.fixture(autouse=True)
def in_float64(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.function is test_in_float32:
        return
    rounding = ("euler_discrete", "euler_ancestral_discrete", "heun_discrete", "dpmsolver_multistep", "unipc_multistep")
    for name in (*rounding, "flow_match_euler_discrete"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{name}.torch", Float64Torch())
    for name in rounding:
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{name}.np", Float64NumPy())
    for name in ("ddpm", "ddim", "lcm", "sde_ve", "euler_ancestral_discrete", "dpmsolver_multistep"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{name}.randn_tensor", single_draws)


def same(a: list[Tensor], b: list[Tensor], tolerance: float = TOLERANCE) -> None:
    """Equal to 1e-5 of the larger of 1 and the state's size, step for step."""
    assert len(a) == len(b)
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        error = float((x - y).abs().max()) / max(1.0, float(y.abs().max()))
        assert error <= tolerance, f"step {k + 1} of {len(a)} is the first that differs: {error:.2e}"


def configured(beta: str, kind: str, spacing: str, offset: int = 0, **more: Any) -> dict[str, Any]:
    return {**BETAS[beta], "prediction_type": kind, "timestep_spacing": spacing, "steps_offset": offset, **more}


every = pytest.mark.parametrize

GRID = [
    (beta, kind, spacing, steps)
    for beta, kind, spacing, steps in itertools.product(BETAS, KINDS, SPACINGS, STEPS)
    if not (beta == "zero-snr" and kind == "epsilon")  # at alpha_t = 0 such a network says nothing of x0
]


def on_grid(names: str, values: Sequence[Any], possible: Callable[..., bool] = lambda *case: True) -> Any:
    """Every case of the grid with every one of `values`, where diffusers has the combination."""
    cases = [(*case, value) for case, value in itertools.product(GRID, values) if possible(*case, value)]
    return every(f"beta, kind, spacing, steps, {names}", cases)


@on_grid("variance", ["small", "large"])
def test_ddpm(beta: str, kind: PredictionType, spacing: str, steps: int, variance: str) -> None:
    config = configured(beta, kind, spacing)
    scheduler = diffusers.DDPMScheduler(**config, clip_sample=False, variance_type=f"fixed_{variance}")
    expected = theirs(scheduler, steps)
    found = ours(config, f"ddpm:variance={variance}", steps, kind)
    if variance == "large" and scheduler.timesteps[-1] > 0:
        expected, found = expected[:-1], found[:-1]  # see test_the_last_step_of_ddpm_adds_no_noise
    same(found, expected)


def test_the_last_step_of_ddpm_adds_no_noise() -> None:
    """Deliberately not as diffusers, which adds noise in the last step unless its time is 0 (trailing: it is not)."""
    config = configured("linear", "epsilon", "trailing")
    scheduler = diffusers.DDPMScheduler(**config, clip_sample=False, variance_type="fixed_large")
    expected, found = theirs(scheduler, 20), ours(config, "ddpm:variance=large", 20, "epsilon")
    same(found[:-1], expected[:-1])
    t = scheduler.timesteps[-1]
    alpha_t = scheduler.alphas_cumprod[t] ** 0.5
    x0 = (expected[-2] - (1 - alpha_t**2) ** 0.5 * TinyNet().double()(expected[-2], t)) / alpha_t
    same(found[-1:], [x0])
    assert float((expected[-1] - x0).std()) == pytest.approx(float((1 - alpha_t**2) ** 0.5), rel=0.1)


@every("kind", KINDS)
@every("steps", STEPS)
def test_ddpm_with_learned_variance(kind: PredictionType, steps: int) -> None:
    config = configured("linear", kind, "leading")
    scheduler = diffusers.DDPMScheduler(**config, clip_sample=False, variance_type="learned_range")
    same(ours(config, "ddpm", steps, kind, learned=True), theirs(scheduler, steps, channels=6))


def with_adjacent_levels(scheduler: diffusers.DDIMScheduler) -> diffusers.DDIMScheduler:
    """diffusers' ddim always goes from t to t - T // steps, which with linspace, or with trailing and a number of steps
    that does not divide T, is not the time the network is told next. Deliberately not so here: the same formula, with
    the next time. (Where both agree, this changes nothing.)"""
    step = scheduler.step

    def stepped(out: Tensor, t: Tensor, x: Tensor, **more: Any) -> Any:
        later = scheduler.timesteps[scheduler.timesteps < t]
        scheduler.register_to_config(num_train_timesteps=int(t - later[0]) if len(later) else 1000)
        scheduler.num_inference_steps = 1
        return step(out, t, x, **more)

    scheduler.step = stepped
    return scheduler


def has_a_root(beta: str, kind: str, spacing: str, steps: int, eta: float) -> bool:
    """diffusers takes the root of 1 - alpha_s^2 - w^2, which is 0 at alpha_t = 0, and by rounding negative."""
    return not (beta == "zero-snr" and eta == 1.0 and spacing != "leading")


@on_grid("eta", [0.0, 0.5, 1.0], has_a_root)
def test_ddim(beta: str, kind: PredictionType, spacing: str, steps: int, eta: float) -> None:
    config = configured(beta, kind, spacing)
    scheduler = diffusers.DDIMScheduler(**config, clip_sample=False)
    if spacing == "linspace" or (spacing == "trailing" and 1000 % steps):
        scheduler = with_adjacent_levels(scheduler)
    same(ours(config, f"ddim:eta={eta}", steps, kind), theirs(scheduler, steps, eta=eta))


@every("kind", KINDS)
@every("offset", [0, 1])
@every("to_one", [True, False])
@every("clip", [None, 1.0, 0.5])
def test_ddim_offset_end_and_clipping(kind: PredictionType, offset: int, to_one: bool, clip: float | None) -> None:
    config = configured("scaled", kind, "leading", offset, set_alpha_to_one=to_one)
    scheduler = diffusers.DDIMScheduler(**config, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    same(ours(config, "ddim:eta=0.5", 20, kind, clip=clip), theirs(scheduler, 20, eta=0.5))


def known_options(kind: type, config: dict[str, Any]) -> dict[str, Any]:
    """`config` without what this scheduler class cannot be told."""
    return {k: v for k, v in config.items() if k in kind.__init__.__wrapped__.__annotations__}  # type: ignore[misc]


def in_diffusers(beta: str, kind: str, spacing: str, steps: int, name: str) -> bool:
    """Its ancestral Euler knows no sample prediction, its Heun no zero terminal SNR."""
    return (name, kind) != ("euler-ancestral", "sample") and (name, beta) != ("heun", "zero-snr")


@on_grid("name", ["euler", "euler-ancestral", "heun"], in_diffusers)
def test_karras(beta: str, kind: PredictionType, spacing: str, steps: int, name: str) -> None:
    made = {
        "euler": diffusers.EulerDiscreteScheduler,
        "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler,
        "heun": diffusers.HeunDiscreteScheduler,
    }[name]
    config = configured(beta, kind, spacing, 1 if spacing == "leading" else 0)
    spec = "heun:wide=karras" if name == "heun" else name
    same(ours(config, spec, steps, kind), theirs(made(**config), steps))


def test_heun_derives_the_slope_from_the_clipped_estimate() -> None:
    config = configured("scaled", "epsilon", "linspace")
    scheduler = diffusers.HeunDiscreteScheduler(**config, clip_sample=True, clip_sample_range=0.5)
    same(ours(config, "heun", 10, "epsilon", clip=0.5), theirs(scheduler, 10))


@on_grid("name", ["dpm++2m", "dpm++2m-sde", "unipc"])
def test_multistep(beta: str, kind: PredictionType, spacing: str, steps: int, name: str) -> None:
    config = configured(beta, kind, spacing, 1 if spacing == "leading" else 0)
    scheduler = {
        "dpm++2m": lambda: diffusers.DPMSolverMultistepScheduler(**config),
        "dpm++2m-sde": lambda: diffusers.DPMSolverMultistepScheduler(**config, algorithm_type="sde-dpmsolver++"),
        "unipc": lambda: diffusers.UniPCMultistepScheduler(**config),
    }[name]()
    same(ours(config, name, steps, kind), theirs(scheduler, steps))


NO_PARTNER = ("sde", "pc", "langevin", "ode", "sds")
"""Samplers that diffusers has not, or elsewhere (test_score_sde.py, test_ode.py, test_distill.py)."""


@every(
    "name, kind",
    [
        case
        for case in itertools.product(SAMPLERS.names(), KINDS)
        if case != ("euler-ancestral", "sample")
        and case[0] not in ("sde", "pc", "langevin", "ode", "sds")  # no partners
    ],
)
def test_in_float32(name: str, kind: PredictionType) -> None:
    """Both as they are used, on the table of Stable Diffusion, 20 steps."""
    made: Any = {
        "ddpm": lambda **c: diffusers.DDPMScheduler(**c, clip_sample=False),
        "ddim": lambda **c: diffusers.DDIMScheduler(**c, clip_sample=False),
        "euler": diffusers.EulerDiscreteScheduler,
        "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler,
        "heun": diffusers.HeunDiscreteScheduler,
        "dpm++2m": diffusers.DPMSolverMultistepScheduler,
        "dpm++2m-sde": lambda **c: diffusers.DPMSolverMultistepScheduler(**c, algorithm_type="sde-dpmsolver++"),
        "unipc": diffusers.UniPCMultistepScheduler,
        "lcm": lambda **c: diffusers.LCMScheduler(**c, clip_sample=False),
    }
    config = configured("scaled", kind, "leading", 1)
    same(ours(config, name, 20, kind, torch.float32), theirs(made[name](**config), 20, dtype=torch.float32))


@every("beta", ["linear", "scaled"])
@every("kind", KINDS)
@every("steps", [1, 4, 8])
def test_lcm(beta: str, kind: PredictionType, steps: int) -> None:
    config = configured(beta, kind, "leading")
    scheduler = diffusers.LCMScheduler(**config, clip_sample=False)
    same(ours(config, "lcm", steps, kind), theirs(scheduler, steps))


@every("shift", [1.0, 3.0])
@every("steps", [1, 4, 30])
@every("spacing", ["linspace", "trailing"])
def test_ddim_is_the_euler_step_of_flow_matching(shift: float, steps: int, spacing: str) -> None:
    """x0 = x_t - t v and eps = x_t + (1 - t) v, so (1 - s) x0 + s eps = x_t + (s - t) v."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift, "timestep_spacing": spacing}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    if spacing == "trailing":  # as FLUX's pipeline lays them
        plain, inner = torch.linspace(1.0, 1.0 / steps, steps).tolist(), scheduler.set_timesteps
        scheduler.set_timesteps = lambda n: inner(sigmas=plain)
    scheduler.init_noise_sigma = 1.0
    scheduler.scale_model_input = lambda x, t: x
    same(ours(config, "ddim", steps, "flow_prediction"), theirs(scheduler, steps))


def test_ddpm_on_a_ve_table_is_the_predictor_of_score_sde() -> None:
    """The Langevin corrector of Song et al. 2021 is not here (its scheduler runs with correct_steps = 0)."""
    config = {"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 50.0}
    generator = torch.Generator().manual_seed(7)
    scheduler, net = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0, sampling_eps=1e-7), TinyNet()
    scheduler.set_timesteps(20)
    scheduler.set_sigmas(20)
    scheduler.discrete_sigmas, net = scheduler.discrete_sigmas.double(), net.double()
    x = torch.randn(SHAPE, generator=generator).double() * 50.0
    expected = []
    for t, sigma in zip(scheduler.timesteps, scheduler.discrete_sigmas.flip(0), strict=True):
        out = scheduler.step_pred(-net(x, sigma) / sigma, t, x, generator=generator)
        x = out.prev_sample
        expected.append(x if len(expected) < 19 else out.prev_sample_mean)
    same(ours(config, "ddpm:variance=large", 20, "epsilon"), expected)


@every("name", SAMPLERS.names())
def test_counted_calls_are_the_predicted_ones(name: str) -> None:
    states: list[State] = []
    model = TinyModel(configured("scaled", "epsilon", "leading"), "epsilon")
    sample(model, shape=SHAPE, sampler=name, steps=7, watch=states.append, device="cpu")
    counted = sum(make_sampler(name).calls(state.move) for state in states)
    assert states[-1].calls >= counted if name == "ode" else states[-1].calls == counted  # ode: the fewest


@every(
    ("spec", "says"),
    [
        ("dim", "did you mean ddim"),
        ("ddim:eta=2", "allowed: 0 to 1"),
        ("ddim:eta=warm", "a number is needed"),
        ("ddim:noise=1", "it has: eta="),
        ("ddpm:variance=huge", "small, large"),
    ],
)
def test_a_wrong_sampler_says_what_is_allowed(spec: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_sampler(spec)
