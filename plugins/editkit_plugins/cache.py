"""Fewer blocks of a transformer at steps that change little: diffusers' FirstBlockCache, after TeaCache (Liu et al.
2024, arXiv:2411.19108) and ParaAttention.

With r_t what the first block adds at a step and r_c what it added when the network was last computed in full, the
rest is left out where mean|r_t - r_c| <= threshold mean|r_c|, and what it added then is added again. A threshold of 0
changes no bit. The larger it is the more is saved, and the farther the result is from the network's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from editkit.plugin import CachesSteps, ChainError, Hooks, KeepsSteps, Plugin, Run, Section, Step, capability

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.diffusion.conditioning import Conditioning
    from editkit.plugin.protocol import Figures


class Cache(Plugin):
    """Leaves out most of a transformer's blocks at steps where the first one says much the same as before.

    For FLUX.1 and Qwen-Image at many steps: at 4 to 8 nearly every step is needed. How many calls it saved is said.
    Where gradients go through the network (`guide`) all of it is computed.
    """

    name: ClassVar[str] = "cache"
    group: ClassVar[Section] = "advanced"
    usage: ClassVar[tuple[str, ...]] = (
        'sdedit photo.png --model FLUX_FOLDER --prompt "a red door" with cache',
        "inpaint photo.png --mask mask.png --model QWEN_FOLDER with cache --threshold 0.1",
        "edit photo.png --model KONTEXT_FOLDER with cache --start 0.2",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"step cache"})
    able: ClassVar[str] = "FLUX.1 and Qwen-Image do"
    example: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}
    neutral: ClassVar[Mapping[str, Any] | None] = {"threshold": 0.0}

    threshold: float = Field(
        0.05, ge=0.0, le=100.0, description="Leave out where the first block changed by at most this part; 0: never."
    )

    def hooks(self) -> type[Hooks[Cache]]:
        return _CacheHooks


class _CacheHooks(Hooks[Cache]):
    def __init__(self, plugin: Cache, run: Run) -> None:
        super().__init__(plugin, run)
        self.cache: KeepsSteps | None = None
        if plugin.threshold == 0.0:
            return
        options = run.options
        for word, used in (("--offload", options.offload != "none"), ("--compile", options.compile)):
            if used:
                raise ChainError(
                    f"cache works on the network's own layers, which {word} has changed; leave out one of the two"
                )
        model = capability(run.model, CachesSteps)
        if model is None:
            raise ChainError(f"cache: {run.model.info.name} ({run.model.info.family}) has no step cache; {plugin.able}")
        self.cache = model.cache_steps(plugin.threshold)
        self.cache.active = False

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        """From here to the end of the move calls may be saved."""
        if self.cache is not None:
            self.cache.active = True
        return cond

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        if self.cache is not None:
            self.cache.active = False
        return x_s

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        """The calls of this stage's network so far, and those that were saved."""
        return {} if self.cache is None else {"calls": float(self.cache.calls), "saved": float(self.cache.saved)}
