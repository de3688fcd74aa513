"""Energies of one evaluation: gradients, the resulting shift of x0, and a warning if the state leaves its range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editkit.common.notify import Notify
from editkit.diffusion.schedule import Level
from editkit.errors import HookError
from editkit.plugin.protocol import Hooks, Plugin

FAINT = 1e-3
"""Up to this alpha_t, every energy is differentiated in x0, in the bounded form: x_t says nothing on x0 there, and
sigma_t^2 / alpha_t would amplify errors of a learned gradient without bound. The limit of (sigma_t^2 / alpha_t) grad
log p(y | x_t) is E[x0 | y] - E[x0], which for isotropic data is -s^2 dE/dx0 at the estimate."""

RUNAWAY = 3.0
"""A state this many times larger than usual is out of the schedule's range."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A plugin with its hooks for this run."""

    plugin: Plugin
    hooks: Hooks[Plugin]


@dataclass(frozen=True, eq=False)
class Energy:
    """The energy of one plugin at one evaluation: `value` (batch,), with its autograd graph."""

    bound: Bound
    name: str
    value: Tensor


def gradient(
    group: Sequence[Energy], x_t: Tensor, leaf: Tensor, keep: bool, at: str
) -> tuple[Tensor | None, Tensor | None]:
    """Return (dE/dx_t, dE/dx0) of the sum E of `group`, in one backward pass; None where E does not depend on it.

    Args:
        group: energies to sum.
        x_t: the state, (batch, channels, ...).
        leaf: the estimate of x0, detached from the network.
        keep: keep the graph for another backward pass.
        at: the step, for messages.

    Raises:
        HookError: E depends on neither, or the gradient is NaN or infinite. The message names the plugin.
    """
    inputs = [v for v in (x_t, leaf) if v.requires_grad]

    def of(energies: Sequence[Energy], keep: bool) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            total = torch.stack([energy.value for energy in energies]).sum()
        return torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=keep)

    grads = of(group, keep)
    if all(grad is None for grad in grads):
        b = group[0].bound
        raise HookError(f"plugin {b.plugin.name}: energy {missing_gradient(b)} ({at})")
    if not _is_finite(grads):
        wrong = group[0] if len(group) == 1 else next(e for e in group if not _is_finite(of([e], keep=True)))
        raise HookError(f"plugin {wrong.bound.plugin.name}: the gradient of its energy is NaN or infinite ({at})")
    return (grads[0], grads[1]) if x_t.requires_grad else (None, grads[0])


def faint_gradient(group: Sequence[Energy], leaf: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return (None, dE/dx0) of the sum E of `group` at a level with almost no signal; see `FAINT`.

    There the estimate may be the data's mean, often a flat picture, at which a loss with a norm or a root is not
    differentiable. Non-finite values of the gradient are set to 0.
    """
    with torch.enable_grad():
        total = torch.stack([energy.value for energy in group]).sum()
    (grad,) = torch.autograd.grad(total, (leaf,), retain_graph=True, allow_unused=True, materialize_grads=True)
    return None, grad.nan_to_num(0.0, 0.0, 0.0)


def _is_finite(grads: Sequence[Tensor | None]) -> bool:
    return all(grad is None or math.isfinite(float(grad.sum())) for grad in grads)


def missing_gradient(b: Bound) -> str:
    """Describe an energy without a gradient, for messages."""
    source = "step.x_t" if b.plugin.through() == "x_t" else "x0"
    return f"does not depend on {source}, so it has no gradient"


def shift_of_x0(grads: Sequence[Tensor | None], level: Level, data_std: float) -> Tensor:
    """Return the shift of x0: -(sigma_t^2 / alpha_t) dE/dx_t - s^2 sigma_t^2 / (s^2 alpha_t^2 + sigma_t^2) dE/dx0.

    s is the data's standard deviation; the second factor is the posterior's variance of an isotropic Gaussian.
    """
    s2, sigma2 = data_std**2, level.sigma**2
    exact = sigma2 / level.alpha if level.alpha > FAINT else 0.0  # no gradient in x_t below
    factors = exact, s2 * sigma2 / (s2 * level.alpha**2 + sigma2)
    parts = [-factor * grad for factor, grad in zip(factors, grads, strict=True) if grad is not None]
    return torch.stack(parts).sum(0)


def clamp_straight_through(x0: Tensor, clip: float) -> Tensor:
    """Clip x0 to [-clip, clip], with the gradient of the unclipped x0 (straight-through)."""
    inside = x0.detach().clamp(-clip, clip)
    if not x0.requires_grad:
        return inside
    with torch.enable_grad():
        return x0 + (inside - x0.detach())


class StateRangeCheck:
    """Warns once if guidance drives the state out of the schedule's range.

    A state usually has a root mean square of about sqrt(alpha_s^2 r^2 + sigma_s^2), where r is that of the first
    estimate before guidance, or the data's standard deviation if that is larger. `RUNAWAY` times that is out of range.
    """

    def __init__(self) -> None:
        self.reference: float | None = None
        self.warned = False

    def begin(self, x0: Tensor, data_std: float) -> None:
        """Set r from the first estimate, (batch, channels, ...); later calls have no effect."""
        if self.reference is None:
            self.reference = max(_rms(x0), data_std)

    def check(self, x_s: Tensor, s: Level, guides: Sequence[str], at: str, notify: Notify) -> None:
        """Check the state x_s, (batch, channels, ...), at the end of a guided move."""
        if self.warned or self.reference is None:
            return
        norm, usual = _rms(x_s), math.hypot(s.alpha * self.reference, s.sigma)
        if norm > RUNAWAY * usual:
            self.warned = True
            notify(
                f"guidance by {', '.join(guides)} drives the state out of the schedule's range: at {at} its root mean "
                f"square is {norm:.3g}, where about {usual:.2g} is usual; weaken the guidance by its plugin's options"
            )


def _rms(x: Tensor) -> float:
    """Return the largest root mean square of an item."""
    return float(x.square().flatten(1).mean(1).max().sqrt())
