"""Step caching for transformers: skip most blocks at steps that change little.

This is diffusers' FirstBlockCache, after TeaCache (Liu et al. 2024, arXiv:2411.19108) and ParaAttention. Let r_t be the
residual of the first block at this step, and r_c its residual at the last step that was computed in full. Where
mean|r_t - r_c| <= threshold mean|r_c|, the other blocks are skipped and their cached residual is added instead. A
threshold of 0 changes no bit. A larger threshold saves more calls and deviates more from the uncached result.
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
    """Skip most of a transformer's blocks at steps where the output of the first block has hardly changed.

    For FLUX.1 and Qwen-Image with many steps; with 4 to 8 steps nearly every one is needed. The number of saved calls
    is reported. Calls that need gradients through the network (`guide`) are always computed in full.
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
        0.05, ge=0.0, le=100.0, description="Skip a step whose first block changed by at most this fraction; 0: never."
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
                    f"cache hooks into the network's own layers, which {word} replaces; leave out one of the two"
                )
        model = capability(run.model, CachesSteps)
        if model is None:
            raise ChainError(f"cache: {run.model.info.name} ({run.model.info.family}) has no step cache; {plugin.able}")
        self.cache = model.cache_steps(plugin.threshold)
        self.cache.active = False

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        """Enable the cache from here until the end of the move."""
        if self.cache is not None:
            self.cache.active = True
        return cond

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        if self.cache is not None:
            self.cache.active = False
        return x_s

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        """Report the calls of this stage's network so far, and how many of them the cache saved."""
        return {} if self.cache is None else {"calls": float(self.cache.calls), "saved": float(self.cache.saved)}
