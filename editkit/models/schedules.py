"""Noise schedules from the configuration files of diffusers' schedulers.

The tables are those of diffusers' own scheduler classes; the rest of a configuration determines the noise levels of a
sampler. The scheduler class in a folder only sets the default sampler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from editkit.diffusion.flows import Line, Mu, SizedFlow
from editkit.diffusion.prediction import PredictionType
from editkit.diffusion.schedule import VE, Discrete, Flow, Schedule, Spacing
from editkit.errors import ModelError

SAMPLERS = {
    "DDPMScheduler": "ddpm",
    "DDPMParallelScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim",
    "PNDMScheduler": "ddim",
    "LMSDiscreteScheduler": "euler",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-ancestral",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpm++2m",
    "DPMSolverSinglestepScheduler": "dpm++2m",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "RePaintScheduler": "ddim",
    "ScoreSdeVeScheduler": "ddpm:variance=large",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "DEISMultistepScheduler": "dpm++2m",
    "DPMSolverSDEScheduler": "euler-ancestral",
    "KDPM2DiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "euler-ancestral",
    "SASolverScheduler": "unipc",
    "DDIMInverseScheduler": "ddim",
    "IPNDMScheduler": "ddim",
}
"""Scheduler class -> the default sampler; others are replaced by the nearest, by order and kind."""

OF_BETAS = ("beta_schedule", "beta_start", "trained_betas")
"""A configuration with one of these keys has the usual table, whatever its class."""

MOST_LEVELS = 100_000
"""Most training timesteps; 1000 are usual."""

OTHER_LADDERS = ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
"""Spacings of noise levels that diffusers has but editkit does not; they are refused instead of ignored."""

_PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "flow_prediction",
}


def _is_flow_matching(config: Mapping[str, Any]) -> bool:
    return str(config.get("_class_name")) in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def default_sampler(config: Mapping[str, Any]) -> str:
    """Return the default sampler of a scheduler configuration.

    Raises:
        ModelError: the scheduler's class is not known.
    """
    name = str(config.get("_class_name", "DDPMScheduler"))
    if name not in SAMPLERS and not any(key in config for key in OF_BETAS):
        raise ModelError(f"scheduler {name[:80]} is not known; known are: {', '.join(SAMPLERS)}")
    sampler = SAMPLERS.get(name, "ddim")
    large = str(config.get("variance_type", "")).startswith("fixed_large")
    return "ddpm:variance=large" if sampler == "ddpm" and large else sampler


def prediction_type(config: Mapping[str, Any]) -> PredictionType:
    """Return the prediction type of a scheduler configuration; a score counts as epsilon."""
    name = str(config.get("prediction_type", "epsilon"))
    if _is_flow_matching(config):
        return "flow_prediction"
    if name not in _PREDICTIONS:
        raise ModelError(f"prediction type {name!r} is not known; known are: {', '.join(_PREDICTIONS)}")
    return _PREDICTIONS[name]


def clip_range(config: Mapping[str, Any]) -> float | None:
    """Return the bound of the x0 estimate, None if the configuration does not clip; the default is the scheduler's."""
    clips = str(config.get("_class_name", "")).startswith(("DDPM", "DDIM", "RePaint"))
    return float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", clips) else None


def make_schedule(config: Mapping[str, Any]) -> Schedule:
    """Make the noise schedule of a scheduler configuration. Imports diffusers for all but the cosine schedule.

    Raises:
        ModelError: the values are invalid.
    """
    for ladder in OTHER_LADDERS:
        if config.get(ladder):
            raise ModelError(f"a scheduler with {ladder} is not known; without it in scheduler_config.json it is")
    times = config.get("num_train_timesteps", 1000)
    if not isinstance(times, int) or not 1 <= times <= MOST_LEVELS:
        raise ModelError(f"a scheduler with num_train_timesteps = {str(times)[:40]}; 1 to {MOST_LEVELS} are known")
    match config.get("_class_name"):
        case "ScoreSdeVeScheduler":
            return VE(float(config.get("sigma_min", 0.01)), float(config.get("sigma_max", 1348.0)), rho=0.0)
        case _ if _is_flow_matching(config) and config.get("use_karras_sigmas"):
            raise ModelError("use_karras_sigmas is not known for flow matching")
        case _ if _is_flow_matching(config) and config.get("use_dynamic_shifting"):
            raise ModelError("a noise schedule that shifts with the picture's size (use_dynamic_shifting) is not known")
        case _ if _is_flow_matching(config):
            return Flow(float(config.get("shift", 1.0)), float(config.get("num_train_timesteps", 1000)), "linspace")
    changed = config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr")
    if config.get("beta_schedule") == "squaredcos_cap_v2" and not changed:
        betas, alphas_cumprod = cosine_table(int(config.get("num_train_timesteps", 1000)))
    else:
        from diffusers import DDPMScheduler

        try:
            trained = DDPMScheduler.from_config(dict(config))
        except (NotImplementedError, TypeError, ValueError) as error:
            raise ModelError(f"no noise schedule can be made of this scheduler configuration: {error}") from error
        betas, alphas_cumprod = trained.betas.numpy(), trained.alphas_cumprod.numpy()
    if not ((alphas_cumprod >= 0.0) & (alphas_cumprod <= 1.0)).all():  # NaN fails both
        raise ModelError("no noise schedule can be made of this scheduler configuration: its betas lie beyond 0 and 1")
    spacing: Spacing = config.get("timestep_spacing", "auto")
    return Discrete(
        alphas_cumprod.astype(np.float64),
        betas=betas.astype(np.float64),
        spacing=spacing,
        steps_offset=int(config.get("steps_offset", 0)),
        set_alpha_to_one=bool(config.get("set_alpha_to_one", True)),
        karras=bool(config.get("use_karras_sigmas", False)),
        distilled=config.get("original_inference_steps"),
    )


def make_flow(config: Mapping[str, Any], patch: int, mu: Mu | None = None) -> SizedFlow:
    """Make the schedule of a transformer whose pipelines choose the noise levels, evenly from 1 to 1 / steps, and let
    the scheduler shift them, like FLUX.1 and later models. `mu` replaces the configuration's shift.

    Raises:
        ModelError: its spacing is not supported, or it is not a flow matching scheduler.
    """
    if not _is_flow_matching(config):
        raise ModelError(f"scheduler {str(config.get('_class_name'))[:80]} is none of flow matching, as its model is")
    for ladder in (*OTHER_LADDERS, "use_karras_sigmas", "invert_sigmas", "stochastic_sampling"):
        if config.get(ladder):
            raise ModelError(f"a scheduler with {ladder} is not known; without it in scheduler_config.json it is")
    if config.get("use_dynamic_shifting"):
        mu = mu or Line(
            int(config.get("base_image_seq_len") or 256), float(config.get("base_shift") or 0.5),
            int(config.get("max_image_seq_len") or 4096), float(config.get("max_shift") or 1.15),
        )  # fmt: skip
    else:
        mu = None
    return SizedFlow(
        float(config.get("shift", 1.0)), float(config.get("num_train_timesteps", 1000)), mu=mu,
        terminal=float(config.get("shift_terminal") or 0.0), linear=config.get("time_shift_type") == "linear",
        patch=patch,
    )  # fmt: skip


def cosine_table(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (beta_t, alpha_bar_t), each (steps,), in float32, bit-identical to diffusers' `squaredcos_cap_v2`: beta_t
    = 1 - f(t + 1) / f(t), at most 0.999, f(t) = cos((t / T + 0.008) / 1.008 pi / 2)^2 (Nichol & Dhariwal 2021,
    arXiv:2102.09672, eq. 17). Implemented here because importing diffusers takes longer than an edit with `pocket`.
    """
    import torch

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = torch.tensor([min(1 - f((t + 1) / steps) / f(t / steps), 0.999) for t in range(steps)])
    return betas.numpy(), torch.cumprod(1.0 - betas, dim=0).numpy()
