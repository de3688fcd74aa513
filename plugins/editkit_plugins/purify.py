"""DiffPure (Nie et al. 2022, arXiv:2205.07460): drown adversarial noise in Gaussian noise, then denoise.

x_t = alpha_t y + sigma_t eps at the level t* with sigma_t / alpha_t = s, then the reverse process from there. More
noise leaves less of the attack, and less of the picture. The authors use the stochastic reverse process (ddpm). One
step (`--steps 1`) is the network's estimate at t* (denoised smoothing, Carlini et al. 2022, arXiv:2206.10550). The mean
over several noises (`--estimate mean`) keeps more of the picture at the same noise level (docs/restoration.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from editkit.plugin import Hooks, Inputs, Levels, Options, Plugin, Run, Section
from editkit_plugins.denoise import ladder_from
from editkit_plugins.restoring.memory import afford

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import ModelInfo


class Purify(Plugin):
    """Remove adversarial noise from a picture: add Gaussian noise, then denoise."""

    name: ClassVar[str] = "purify"
    group: ClassVar[Section] = "advanced"
    usage: ClassVar[tuple[str, ...]] = (
        "purify photo.png",
        "purify photo.png --candidates 4",
        "plan purify photo.png",
    )
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"sigma": 25}

    sigma: float = Field(30.0, gt=0.0, le=2550.0, description="Noise to add, in levels of 255; more removes more.")

    def hooks(self) -> type[Hooks[Purify]]:
        return _PurifyHooks

    def default_model(self) -> str:
        """Return a network's name: the picture's own patches contain the attack."""
        return "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """Choose ddpm on models whose sampler is ddim."""
        return Options(sampler="ddpm") if info.sampler == "ddim" else Options()

    def levels(self, levels: Levels, inputs: Inputs) -> Levels:
        return ladder_from(inputs.model.schedule, self.sigma / 127.5, levels)


class _PurifyHooks(Hooks[Purify]):
    def __init__(self, plugin: Purify, run: Run) -> None:
        super().__init__(plugin, run)
        if run.inputs.original is not None:
            height, width = run.inputs.original.shape[-2:]
            afford(f"purify of {width}x{height}", width, height)

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        run = self.run
        known = run.inputs.known
        if known is None:
            return None
        level = run.levels[run.plan.start]
        return level.alpha * known + level.sigma * run.opening.noise

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float]:
        """Report the root mean square change in levels of 255: the attack, and what was lost with it."""
        original = self.run.inputs.original
        assert original is not None
        return {"changed_levels": 127.5 * float((image - original).square().mean().sqrt())}
