"""What every guidance by an energy has in common: when it acts, where, how strongly, and through what.

`Guidance` is the declaration's part and `GuidanceHooks` the run's: a method adds its fields and `loss`, and inherits

    E(x) = scale * w(progress) * loss(x),    x0' = x0 + shape(-(sigma_t^2 / alpha_t) dE/dx_t)

where w is a piecewise linear weight over the process, and `shape` limits the shift to a region, bounds it, or gives it
a fixed size. Where none of the three is asked for, all guidances share one backward pass (`editkit.engine.loop`).
docs/guidance.md has an example.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, field_validator

from editkit.diffusion.space import space_of
from editkit.errors import UsageError
from editkit.plugin.params import MaskSource
from editkit.plugin.protocol import Hooks, Plugin, Through
from editkit.plugin.step import Run, Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.pictures.picture import Picture


class Guidance(Plugin):
    """The shared parameters; not a method by itself."""

    gradient: Literal["network", "x0", "x_t"] | None = Field(
        None, description="Exact through the network; cheap on x0; on x_t (noise-aware losses only)."
    )
    profile: str = Field("1", description="Weight along the process, as 0:0,0.5:1,1:0.2; linear in between.")
    every: int = Field(1, ge=1, description="Act only at every Nth step.")
    mask: MaskSource | None = Field(None, description="Where it acts: white; elsewhere nothing is moved.")
    view: Literal["whole", "region"] = Field(
        "whole", description="What it looks at: everything, or the box around its own mask (else the edit's)."
    )
    limit: float | None = Field(None, gt=0.0, description="x0 is moved by at most this root mean square in a step.")
    normalize: float | None = Field(
        None, gt=0.0, description="x0 is moved by this times sigma_t (root mean square), however strong the gradient."
    )
    checkpoint: bool = Field(False, description="Gradient checkpointing of the network: less memory, more time.")
    decoder: Literal["exact", "linear"] = Field(
        "exact", description="Models of latents: their decoder, or a linear map fitted to it, much cheaper."
    )

    @field_validator("profile")
    @classmethod
    def _readable(cls, profile: str) -> str:
        knots(profile)
        return profile

    def through(self) -> Through:
        return self.gradient or "network"

    def alone(self) -> bool:
        return self.mask is not None or self.limit is not None or self.normalize is not None

    def uses(self) -> frozenset[str]:
        return super().uses() if self.alone() else super().uses() - {"shift"}

    def acts(self, index: int, total: int) -> bool:
        return index % self.every == 0 and super().acts(index, total) and self.factor(index, total) != 0.0

    def factor(self, index: int, total: int) -> float:
        """What the loss is multiplied by in flow move `index` of `total`; where it is 0 nothing is asked."""
        return self.strength() * weight(knots(self.profile), (index + 0.5) / max(total, 1))

    def strength(self) -> float:
        """The factor of the loss; 0 changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} must define strength()")


G = TypeVar("G", bound=Guidance, covariant=True)


class GuidanceHooks(Hooks[G]):
    """The run's part: override `loss`."""

    def __init__(self, plugin: G, run: Run) -> None:
        super().__init__(plugin, run)
        mask = None if plugin.mask is None or plugin.strength() == 0.0 else placed_mask(plugin.name, plugin.mask, run)
        self.region = None if mask is None else run.model.encode_mask(mask)
        looked_at = (mask if mask is not None else run.inputs.mask) if plugin.view == "region" else None
        self.box = None if looked_at is None else _box(looked_at)
        if plugin.checkpoint:
            _checkpoint(plugin, run)

    def loss(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"]:
        """What is to become small, for each item; differentiable in x0, or in `step.x_t` where `through` says so."""
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    def pixels(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b 3 h w"]:
        """The part of the estimated picture that is looked at, about [-1, 1]."""
        return self.seen(step.decode(x0) if self.plugin.decoder == "exact" else self.run.inputs.sketch(x0))

    def seen(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
        """The part that is looked at of a picture at the size of this pass."""
        if self.box is None:
            return image
        rows, columns = self.box
        return image[..., rows, columns]

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        factor = self.plugin.factor(step.index, step.total)
        return None if factor == 0.0 else factor * self.loss(step, x0)

    def shift(self, step: Step, dx0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        if self.region is not None:
            dx0 = dx0 * self.region
        plugin = self.plugin
        if plugin.normalize is None and plugin.limit is None:
            return dx0
        rms = dx0.square().flatten(1).mean(1).sqrt().clamp_min(1e-12).reshape(-1, *[1] * (dx0.ndim - 1))
        wanted = rms if plugin.normalize is None else plugin.normalize * step.sigma_t + 0.0 * rms
        if plugin.limit is not None:
            wanted = wanted.clamp_max(plugin.limit)
        return dx0 * (wanted / rms)


Knots = tuple[tuple[float, float], ...]


def knots(profile: str) -> Knots:
    """(fraction of the process, weight) pairs in ascending order, of `1`, or of `0:0,0.5:1,1:0.2`.

    Raises:
        ValueError: it says something else.
    """
    wrong = f"is {profile!r}; a weight as 0.5, or pairs fraction:weight in ascending order, as 0:0,0.5:1,1:0.2"
    try:
        if ":" not in profile:
            return ((0.0, float(profile)),)
        pairs = tuple((float(at), float(w)) for at, w in (word.split(":") for word in profile.split(",")))
    except ValueError:
        raise ValueError(wrong) from None
    ascending = all(a < b for (a, _), (b, _) in pairwise(pairs))
    if not ascending or not all(0.0 <= at <= 1.0 for at, _ in pairs):
        raise ValueError(wrong)
    return pairs


def weight(knots: Knots, at: float) -> float:
    """The weight at a fraction of the process: linear between the knots, constant outside of them."""
    if at <= knots[0][0]:
        return knots[0][1]
    for (a, low), (b, high) in pairwise(knots):
        if at <= b:
            return low + (high - low) * (at - a) / (b - a)
    return knots[-1][1]


def placed_mask(name: str, source: Any, run: Run) -> Tensor:
    """A mask as a parameter gives it, at the pixels of this pass: (1, 1, h, w), 1 = act."""
    import torch

    from editkit.errors import PictureError
    from editkit.pictures.masks import read_mask

    picture = _blank(run)
    try:
        mask = torch.from_numpy(read_mask(source, picture, notify=run.notify))[None, None].to(run.device)
    except PictureError as error:
        raise UsageError(f"{name}: --mask: {error}") from error
    placed = run.inputs.place(mask)
    if not bool((placed > 0).any()):
        raise UsageError(f"{name}: --mask lies outside of what is edited; nothing would be guided")
    return placed


def _blank(run: Run) -> Picture:
    """A picture of the size that masks are drawn for: the edited one's; without one, the state's."""
    import numpy as np

    from editkit.pictures.picture import Picture

    if run.inputs.whole is not None:
        return Picture(run.inputs.whole)
    factor = space_of(run.model).factor
    height, width = (factor * side for side in run.shape[-2:])
    return Picture(np.zeros((height, width, 3), np.uint8))


def _box(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the box around what is white in (1 or b, 1, h, w); all of them where nothing is."""
    white = (mask > 0).flatten(0, 1).any(0)
    if not bool(white.any()):
        return slice(None), slice(None)  # as `repair` that found nothing
    rows, columns = (white.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _checkpoint(plugin: Guidance, run: Run) -> None:
    if not run.lease.checkpoint():
        info = run.model.info
        raise UsageError(
            f"{plugin.name}: --checkpoint is for networks of many layers; {info.name} ({info.family}) has none"
        )
