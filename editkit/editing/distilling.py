"""Score distillation: optimise any differentiable generator under a diffusion prior.

Poole et al. 2022 (DreamFusion, arXiv:2209.14988, eq. 3): the parameters theta of a generator x(theta) descend along
E[w(t) (eps_hat(x_t) - eps) dx/dtheta] with x_t = alpha_t x + sigma_t eps, without differentiating the network.
eps_hat - eps = (alpha_t / sigma_t)(x - x0_hat), where x0_hat is the estimate after the plugins' hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from editkit.common.notify import Notify, silent
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.distilling import gradient_weight
from editkit.diffusion.model import Model
from editkit.diffusion.schedule import Level
from editkit.editing.in_python import in_python
from editkit.editing.processes import process_of
from editkit.engine.acting import ActivePlugins, FlowMove
from editkit.engine.loop import Process
from editkit.engine.predictor import Predictor
from editkit.errors import ModelError, UsageError
from editkit.models.leasing import Models
from editkit.plugin.protocol import Plugin

Order = Literal["annealed", "random"]


@dataclass(frozen=True, eq=False)
class Distilling:
    """The state of a distillation: step `index` of `total`, at `level`.

    It has the generated sample and the prior's estimate for it, (batch, channels, ...) each.
    """

    index: int
    total: int
    level: Level
    x: Tensor
    x0: Tensor


def distill(  # long: its arguments, and one loop
    model: Model,
    generator: nn.Module,
    plugins: Plugin | Sequence[Plugin] = (),
    *,
    steps: int = 500,
    seed: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    rate: float = 0.01,
    order: Order = "annealed",
    window: tuple[float, float] = (0.02, 0.98),
    weight: Literal["paper", "even"] = "paper",
    told: Callable[[int], Conditioning | None] | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    watch: Callable[[Distilling], None] | None = None,
    notify: Notify = silent,
    models: Models | None = None,
    **options: Any,
) -> nn.Module:
    """Optimise the parameters of `generator` so that its output is likely under `model`, guided by `plugins`.

    Args:
        model: the prior, any object that implements the `Model` protocol. Its space is the generator's.
        generator: a module; `generator(k)` at step k returns (batch, channels, ...), differentiable in its parameters.
            A scene chooses its view by k.
        plugins: declarations that act on the estimate as in `sample`: cfg, guide, clip, restore, masks ...
        steps: optimiser steps, with one network evaluation each.
        seed: seed of the noise.
        optimizer: over the generator's parameters; None: Adam with learning rate `rate`.
        rate: learning rate of the default optimiser.
        order: order of the noise levels: decreasing (`annealed`), or random in every step (`random`, as in the paper).
        window: range of levels to use, from the clean end (0) to the noisy end (1).
        weight: `paper`: w = sigma_t^2; `even`: w = sigma_t / alpha_t, so that the gradient is x - x0_hat.
        told: returns the conditioning of step k, instead of the plugins'; for example for the generator's view.
        known, mask, notify, models, options: as for `sample`.
        watch: called after every step.

    Returns:
        `generator`, modified in place.

    Raises:
        UsageError: there are no parameters to train, or the window contains no level.
        ModelError: the generator's output changes its shape, is not finite, or has no gradient.
    """
    with in_python("distill"):
        trained = [p for p in generator.parameters() if p.requires_grad]
        if not trained:
            raise UsageError("distill: the generator has no parameters to train; one with requires_grad is needed")
        ours = optimizer or torch.optim.Adam(trained, lr=rate)
        with torch.no_grad():
            shape = tuple(_check_output(generator(0), None, 0).shape)
        asked = {"steps": steps, "seed": seed, **options}
        with process_of(model, plugins, shape, known, mask, notify, "streams", models, asked) as process:
            prior = Predictor(process.model, process.run, ActivePlugins(process.bound))
            levels = _levels(process, order, window)
            for k, t in enumerate(levels):
                x = _check_output(generator(k), shape, k)
                if not x.requires_grad:
                    raise ModelError("distill: the generator's output has no gradient; is it detached?")
                x0 = _estimate(process, prior, x.detach().float(), t, k, None if told is None else told(k))
                ours.zero_grad()
                gradient = gradient_weight(t, weight) * (x.detach().float() - x0)
                torch.autograd.backward(x, gradient.to(x.dtype))
                ours.step()
                if watch is not None:
                    watch(Distilling(k, steps, t, x.detach(), x0))
    return generator


def _estimate(
    process: Process, prior: Predictor, x: Tensor, t: Level, k: int, conditioning: Conditioning | None
) -> Tensor:
    """Return the guided estimate x0_hat(alpha_t x + sigma_t eps) at step k."""
    eps = process.sampler_stream.normal(x.shape).to(x.device)
    where = FlowMove(process.plan.flow[k], k, process.plan.steps)
    return prior.at(where, t.alpha * x + t.sigma * eps, t, conditioning).prediction.x0


def _levels(process: Process, order: Order, window: tuple[float, float]) -> list[Level]:
    """Return the level of every step: decreasing through `window`, or drawn from it at random."""
    n = process.plan.steps
    low, high = (round(share * n, 9) for share in window)
    inside = [k for k in range(1, n + 1) if low <= k - 0.5 < high or (k == n and high == n)]
    if not inside:
        raise UsageError(f"distill: window {window} contains none of {n} levels; widen it, or use more steps")
    if order == "random":
        draws = process.run.noise.stream("levels").normal((n,))
        chosen = torch.special.ndtr(draws.double()) * len(inside)
        return [process.levels[inside[min(int(v), len(inside) - 1)]] for v in chosen]
    return [process.levels[inside[len(inside) - 1 - k * len(inside) // n]] for k in range(n)]


def _check_output(x: Any, shape: tuple[int, ...] | None, k: int) -> Tensor:
    """Check a generator's output and return it."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        got = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ModelError(f"distill: the generator returned {got} at step {k}; a float tensor (batch, channels, ...) "
                         "is needed")  # fmt: skip
    if shape is not None and tuple(x.shape) != shape:
        raise ModelError(f"distill: the generator returned shape {tuple(x.shape)} at step {k} and {shape} before")
    if not bool(torch.isfinite(x.detach().sum())):
        raise ModelError(f"distill: the generator returned NaN or infinity at step {k}; a smaller rate may help")
    return x
