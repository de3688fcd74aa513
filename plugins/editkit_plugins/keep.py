"""Differential diffusion: a soft mask sets how much each pixel may change (Levin & Fried 2023, arXiv:2306.00950).

The mask value m of a pixel is its strength. While more than the fraction m of the process is left, the pixel is held to
the picture, noised to the current level; after that the process may change it. With k of n levels left and the picture
y: x_s <- x_s where k < m n, else alpha_s y + sigma_s z. Thus 0 keeps a pixel and 1 leaves it to the edit. In between,
every pixel is an `sdedit` with its own strength, in one process that sees all pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from editkit.plugin import ChainError, Hooks, MaskSource, Picture, Plugin, Run, Section, Step, UsageError, read_mask

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Keep(Plugin):
    """Limit by a soft mask how much an edit may change each pixel: black not at all, white without limit.

    Works with sdedit, inpaint, translate and every other edit that runs one process.
    """

    name: ClassVar[str] = "keep"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "sdedit photo.png --strength 0.8 with keep --map soft.png",
        "inpaint photo.png --mask mask.png with keep --map soft.png",
        'translate cat.png --model DIR --source "a cat" --prompt "a dog" with keep --map soft.png',
    )
    order: ClassVar[int] = 90
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"map": "box:40%,40%,60%,60%"}

    map: MaskSource | None = Field(
        None, description="How much each pixel may change, black 0 to white 1; a picture, or words as box:10,10,80,60."
    )

    def hooks(self) -> type[Hooks[Keep]]:
        return _KeepHooks


class _KeepHooks(Hooks[Keep]):
    def __init__(self, plugin: Keep, run: Run) -> None:
        import torch
        import torch.nn.functional as F

        super().__init__(plugin, run)
        if plugin.map is None:
            raise UsageError("keep needs --map: a picture (white = may change) or words as box:10,10,80,60")
        whole = run.inputs.whole
        known = run.inputs.known
        if whole is None or known is None:
            raise ChainError("keep works on a picture, and there is none")
        values = read_mask(plugin.map, Picture(whole), notify=run.notify)
        grey = torch.from_numpy(values)[None, None].to(run.device)
        placed = run.inputs.place(grey)
        size = run.shape[2:]
        self.free = placed if placed.shape[-2:] == size else F.interpolate(placed, size, mode="area")
        original = run.inputs.original
        assert original is not None
        size = original.shape[-2:]
        here = grey if grey.shape[-2:] == size else F.interpolate(placed, size, mode="bilinear")  # a crop
        self.known, self.held = known, here == 0.0

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        if step.move.up:
            return x_s
        if step.t.index == 0:  # pixels at 0 equal the picture even if the last level is not quite clean
            return x_s.where(self.free > 0.0, self.known)
        left = step.t.index / self.run.plan.steps
        return x_s.where(self.free > left, step.alpha_t * self.known + step.sigma_t * step.randn_like(self.known))

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        original = self.run.inputs.original
        assert original is not None
        return image.where(~self.held, original)
