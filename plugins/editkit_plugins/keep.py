"""Differential diffusion: a soft mask says how far each pixel may move (Levin & Fried 2023, arXiv:2306.00950).

A value m of the mask is the strength from which on its pixel is free: while more than m of the way is left, the pixel
is the picture's, noised to the level; from there on the process may change it. With k levels left of n and y the
picture, x_s <- x_s where k < m n, else alpha_s y + sigma_s z. So 0 keeps a pixel, 1 leaves it to the edit, and between
them every pixel is an `sdedit` of its own strength, in one process that sees all of them.
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
    """Let each pixel of another edit move only as far as a soft mask says: black not at all, white as far as the edit.

    Of sdedit, inpaint, translate and every other edit with one process.
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
        None, description="How far each pixel may move, black 0 to white 1; a picture, or words as box:10,10,80,60."
    )

    def hooks(self) -> type[Hooks[Keep]]:
        return _KeepHooks


class _KeepHooks(Hooks[Keep]):
    def __init__(self, plugin: Keep, run: Run) -> None:
        import torch
        import torch.nn.functional as F

        super().__init__(plugin, run)
        if plugin.map is None:
            raise UsageError("keep needs --map: a picture (white = may move) or words as box:10,10,80,60")
        whole = run.inputs.whole
        known = run.inputs.known
        if whole is None or known is None:
            raise ChainError("keep works on a picture, and there is none")
        said = read_mask(plugin.map, Picture(whole), notify=run.notify)
        grey = torch.from_numpy(said)[None, None].to(run.device)
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
        if step.t.index == 0:  # what may not move at all is the picture, also where the last level is not quite clean
            return x_s.where(self.free > 0.0, self.known)
        left = step.t.index / self.run.plan.steps
        return x_s.where(self.free > left, step.alpha_t * self.known + step.sigma_t * step.randn_like(self.known))

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        original = self.run.inputs.original
        assert original is not None
        return image.where(~self.held, original)
