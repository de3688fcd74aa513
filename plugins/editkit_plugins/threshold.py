"""Dynamic thresholding: keep a strongly guided x0 in range without saturating it.

Saharia et al. 2022 ("Imagen", arXiv:2205.11487, section 2.3): x0 <- clip(x0, -s, s) / s, where s is the `percentile` of
|x0| over each item, at least 1 and at most `largest`. Strong guidance drives x0 out of [-1, 1]; plain clipping
saturates, this does not. The noise estimate follows the new x0 (clip_sample keeps the network's own).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from editkit.diffusion.space import space_of
from editkit.plugin import ChainError, Hooks, Plugin, Run, Section, Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Threshold(Plugin):
    """Apply Imagen's dynamic thresholding to the clean estimate, on models that work on pixels.

    Latents have no fixed range, so latent models are refused. If x0 lies within [-1, 1] up to the percentile it is only
    clipped; a percentile of 1 with largest 1 is plain clipping.
    """

    name: ClassVar[str] = "threshold"
    group: ClassVar[Section] = "advanced"
    usage: ClassVar[tuple[str, ...]] = (
        "sdedit photo.png with threshold",
        "inpaint photo.png --mask mask.png --model pocket with threshold",
        "plan sdedit photo.png with threshold",
    )
    order: ClassVar[int] = 10

    percentile: float = Field(0.995, gt=0.0, le=1.0, description="Fraction of values that must be in range.")
    largest: float = Field(1.5, ge=1.0, description="Largest divisor; 1 is plain clipping.")

    def hooks(self) -> type[Hooks[Threshold]]:
        return _ThresholdHooks


class _ThresholdHooks(Hooks[Threshold]):
    def __init__(self, plugin: Threshold, run: Run) -> None:
        super().__init__(plugin, run)
        if not space_of(run.model).is_pixels:
            raise ChainError(
                f"threshold keeps pixels in range, but {run.model.info.name} ({run.model.info.family}) works on "
                f"latents, which have no range; lower --guidance-scale or use `with cfg --rescale 0.7`"
            )

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        import torch

        s = torch.quantile(x0.abs().flatten(1), self.plugin.percentile, dim=1)
        s = s.clamp(1.0, self.plugin.largest).reshape(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-s, s) / s
