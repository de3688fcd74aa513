"""Choice of the solver for a problem, and its hooks for a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from editkit.plugin import ChainError, Run
from editkit_plugins.restoring.degradations import Grey, Mask
from editkit_plugins.restoring.denoised import Hqs, Requantised
from editkit_plugins.restoring.methods import (
    Conditioned,
    Ddnm,
    Dps,
    PiGdm,
    PiGdmGiven,
    Point,
    SolvingHooks,
    Wiener,
    works_on_latents,
)
from editkit_plugins.restoring.plug_and_play import PlugAndPlay
from editkit_plugins.restoring.transitions import DdnmPlus, Ddrm, DiffPir

if TYPE_CHECKING:
    from editkit_plugins.restoring.base import Solving
    from editkit_plugins.restoring.problem import Problem

METHODS: Mapping[str, type[SolvingHooks]] = {
    "conditioned": Conditioned, "ddnm": Ddnm, "ddrm": Ddrm, "diffpir": DiffPir, "dps": Dps, "pigdm": PiGdm,
    "graikos": PlugAndPlay, "hqs": Hqs, "point": Point, "wiener": Wiener,
}  # fmt: skip


def hooks_for(method: str, noisy: bool, covariance: bool = False) -> type[SolvingHooks]:
    """Return the hooks class of a method; ddnm has a variant for noise, pigdm one for a known covariance."""
    if method == "ddnm" and noisy:
        return DdnmPlus
    if method == "pigdm" and covariance:
        return PiGdmGiven
    return METHODS[method]


def bind_solver(plugin: Solving, run: Run) -> SolvingHooks:
    """Create the hooks of a run, and report the choice of `auto`.

    Raises:
        ChainError: the model cannot be conditioned on the observation, or the method needs a model of pixels.
    """
    problem = plugin.problem(run)
    kind: type[SolvingHooks] = plugin.hooks()
    able = plugin.tells() <= run.model.info.takes
    if issubclass(kind, Conditioned) and not able:
        if plugin.method != "auto":
            takes, wanted = ", ".join(sorted(run.model.info.takes)) or "nothing", " and ".join(sorted(plugin.tells()))
            raise ChainError(f"{plugin.name}: {run.model.info.name} takes {takes}, not {wanted}; use --method auto")
        kind = hooks_for(plugin.solved(), plugin.noisy())
    if run.model.info.loudest is not None:
        kind = _for_little_noise(plugin, problem, run.model.info.name)
    latent = works_on_latents(run)
    if latent and plugin.method == "auto" and not issubclass(kind, Conditioned):
        kind = Dps
    elif latent and not issubclass(kind, Dps | Conditioned):
        raise ChainError(
            f"{plugin.name}: {plugin.method} works on pixels, but {run.model.info.name} ({run.model.info.family}) on "
            "latents; use --method dps"
        )
    made = kind(plugin, run, problem)
    message = f"method {kind.says}" if plugin.method == "auto" else made.warn()
    if message is not None:
        run.notify(f"{plugin.name}: {message}")
    return made


def _for_little_noise(plugin: Solving, problem: Problem, name: str) -> type[SolvingHooks]:
    """Return the method for a model that only knows little noise.

    Raises:
        ChainError: another method was asked for, or pixels or colours are lost, which such a model cannot invent.
    """
    if plugin.method not in ("auto", "hqs"):
        raise ChainError(
            f"{plugin.name}: {plugin.method} starts from noise, and {name} only removes a little; use --method auto, "
            "or another --model such as pocket"
        )
    if isinstance(problem.A, Mask | Grey) and problem.sigma == 0.0:
        raise ChainError(
            f"{plugin.name}: {name} removes noise and cannot invent lost pixels or colours; use another "
            "--model, such as pocket"
        )
    return Hqs if problem.A.linear else Requantised
