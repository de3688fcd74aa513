"""Schedules from the configuration files that diffusers' schedulers save.

The tables are those of diffusers' own scheduler classes; the rest of a configuration says how a sampler lays its
levels. Which scheduler class a folder names does not choose the sampler for good: it is the default, nothing more.
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
"""Scheduler class -> the default sampler; those that are not here give way to the nearest, by order and kind."""

OF_BETAS = ("beta_schedule", "beta_start", "trained_betas")
"""A configuration with one of these has the usual table, whoever's class it is."""

MOST_LEVELS = 100_000
"""Of a training; 1000 are usual."""

OTHER_LADDERS = ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
"""Ways to spread noise levels that diffusers has and this does not; they are refused rather than passed over."""

_PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "flow_prediction",
}


def _flows(config: Mapping[str, Any]) -> bool:
    return str(config.get("_class_name")) in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def default_sampler(config: Mapping[str, Any]) -> str:
    """The sampler that a scheduler configuration asks for.

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
    """What the network's output means, by the scheduler's configuration; a score is epsilon here."""
    name = str(config.get("prediction_type", "epsilon"))
    if _flows(config):
        return "flow_prediction"
    if name not in _PREDICTIONS:
        raise ModelError(f"prediction type {name!r} is not known; known are: {', '.join(_PREDICTIONS)}")
    return _PREDICTIONS[name]


def clip_range(config: Mapping[str, Any]) -> float | None:
    """The bound of the x0 estimate, None where the configuration does not clip; default: the scheduler's."""
    clips = str(config.get("_class_name", "")).startswith(("DDPM", "DDIM", "RePaint"))
    return float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", clips) else None


def make_schedule(config: Mapping[str, Any]) -> Schedule:
    """The table of a scheduler configuration. Imports diffusers for what is not the cosine one.

    Raises:
        ModelError: it cannot be made of these values.
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
        case _ if _flows(config) and config.get("use_karras_sigmas"):
            raise ModelError("use_karras_sigmas is not known for flow matching")
        case _ if _flows(config) and config.get("use_dynamic_shifting"):
            raise ModelError("a noise schedule that shifts with the picture's size (use_dynamic_shifting) is not known")
        case _ if _flows(config):
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
    if not ((alphas_cumprod >= 0.0) & (alphas_cumprod <= 1.0)).all():  # not a number is neither
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
    """The table of a transformer whose pipelines lay their levels themselves, evenly from 1 to 1 / steps, and let the
    scheduler shift them: what FLUX.1 and those after it do. `mu` in place of the configuration's line.

    Raises:
        ModelError: it spreads them in a way that is not known here, or is no scheduler of flow matching.
    """
    if not _flows(config):
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
    """(beta_t, alpha_bar_t), each (steps,), in float32 and to the bit as in diffusers' `squaredcos_cap_v2`: beta_t =
    1 - f(t + 1) / f(t), at most 0.999, f(t) = cos((t / T + 0.008) / 1.008 pi / 2)^2 (Nichol & Dhariwal 2021,
    arXiv:2102.09672, eq. 17). Written here since importing diffusers takes longer than an edit by `pocket`.
    """
    import torch

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = torch.tensor([min(1 - f((t + 1) / steps) / f(t / steps), 0.999) for t in range(steps)])
    return betas.numpy(), torch.cumprod(1.0 - betas, dim=0).numpy()
