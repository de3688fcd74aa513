"""Base classes of guidance by an energy: when it acts, where, how strongly, and through what.

`Guidance` is the declaration and `GuidanceHooks` its part during a run. A method adds its fields and `loss`, and
inherits

    E(x) = scale * w(progress) * loss(x),    x0' = x0 + shape(-(sigma_t^2 / alpha_t) dE/dx_t)

where w is a piecewise linear weight over the process, and `shape` restricts the shift to a region, bounds its size, or
fixes its size. If none of these three is set, all guidances share one backward pass (`editkit.engine.loop`).
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
    """Common parameters of guidance; an abstract base class."""

    gradient: Literal["network", "x0", "x_t"] | None = Field(
        None, description="Gradient through the network (exact), on x0 (cheap), on x_t (noise-aware losses only)."
    )
    profile: str = Field("1", description="Weight along the process, as 0:0,0.5:1,1:0.2; linear in between.")
    every: int = Field(1, ge=1, description="Act only at every Nth step.")
    mask: MaskSource | None = Field(None, description="White = where it acts; elsewhere nothing is moved.")
    view: Literal["whole", "region"] = Field(
        "whole", description="What the loss sees: the whole picture, or the box around its (or the edit's) mask."
    )
    limit: float | None = Field(None, gt=0.0, description="Largest shift of x0 in a step (root mean square).")
    normalize: float | None = Field(
        None, gt=0.0, description="Fixed shift of x0, this times sigma_t (root mean square), whatever the gradient."
    )
    checkpoint: bool = Field(False, description="Gradient checkpointing of the network: less memory, more time.")
    decoder: Literal["exact", "linear"] = Field(
        "exact", description="Latent models: their decoder, or a linear map fitted to it, which is much cheaper."
    )

    @field_validator("profile")
    @classmethod
    def _readable(cls, profile: str) -> str:
        parse_profile(profile)
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
        """Return the factor of the loss in flow move `index` of `total`; at 0 the loss is not evaluated."""
        return self.strength() * interpolate_weight(parse_profile(self.profile), (index + 0.5) / max(total, 1))

    def strength(self) -> float:
        """Return the overall factor of the loss; 0 changes nothing."""
        raise NotImplementedError(f"{type(self).__name__} must define strength()")


G = TypeVar("G", bound=Guidance, covariant=True)


class GuidanceHooks(Hooks[G]):
    """Hooks of guidance during a run; override `loss`."""

    def __init__(self, plugin: G, run: Run) -> None:
        super().__init__(plugin, run)
        mask = None if plugin.mask is None or plugin.strength() == 0.0 else mask_at_state(plugin.name, plugin.mask, run)
        self.region = None if mask is None else run.model.encode_mask(mask)
        looked_at = (mask if mask is not None else run.inputs.mask) if plugin.view == "region" else None
        self.box = None if looked_at is None else _mask_slices(looked_at)
        if plugin.checkpoint:
            _enable_checkpointing(plugin, run)

    def loss(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"]:
        """Return the loss to minimise, (batch,); differentiable in x0, or in `step.x_t` if `through` is "x_t"."""
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    def pixels(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b 3 h w"]:
        """Decode x0 and return the part that the loss sees, in about [-1, 1]."""
        return self.seen(step.decode(x0) if self.plugin.decoder == "exact" else self.run.inputs.sketch(x0))

    def seen(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 h w"]:
        """Crop a picture at the size of this pass to the part that the loss sees."""
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


def parse_profile(profile: str) -> Knots:
    """Parse a profile, `1` or `0:0,0.5:1,1:0.2`, into ascending pairs (fraction of the process, weight).

    Raises:
        ValueError: the text has another form.
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


def interpolate_weight(knots: Knots, at: float) -> float:
    """Return the weight at a fraction of the process: linear between the knots, constant outside."""
    if at <= knots[0][0]:
        return knots[0][1]
    for (a, low), (b, high) in pairwise(knots):
        if at <= b:
            return low + (high - low) * (at - a) / (b - a)
    return knots[-1][1]


def mask_at_state(name: str, source: Any, run: Run) -> Tensor:
    """Read a mask parameter and place it at the pixels of this pass: (1, 1, h, w), 1 = act.

    `name` is the plugin's, for messages.

    Raises:
        UsageError: the mask cannot be read, or lies outside the part of the picture that is edited.
    """
    import torch

    from editkit.errors import PictureError
    from editkit.pictures.masks import read_mask

    picture = _blank_picture(run)
    try:
        mask = torch.from_numpy(read_mask(source, picture, notify=run.notify))[None, None].to(run.device)
    except PictureError as error:
        raise UsageError(f"{name}: --mask: {error}") from error
    placed = run.inputs.place(mask)
    if not bool((placed > 0).any()):
        raise UsageError(f"{name}: --mask lies outside the edited area, so nothing would be guided")
    return placed


def _blank_picture(run: Run) -> Picture:
    """Return a picture of the size for which masks are drawn: the edited picture's, else the state's."""
    import numpy as np

    from editkit.pictures.picture import Picture

    if run.inputs.whole is not None:
        return Picture(run.inputs.whole)
    factor = space_of(run.model).factor
    height, width = (factor * side for side in run.shape[-2:])
    return Picture(np.zeros((height, width, 3), np.uint8))


def _mask_slices(mask: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns of the box around the white part of (1 or b, 1, h, w); all if nothing is white."""
    white = (mask > 0).flatten(0, 1).any(0)
    if not bool(white.any()):
        return slice(None), slice(None)  # such as `repair` that found nothing
    rows, columns = (white.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _enable_checkpointing(plugin: Guidance, run: Run) -> None:
    if not run.lease.checkpoint():
        info = run.model.info
        raise UsageError(
            f"{plugin.name}: --checkpoint needs a network that supports it, and {info.name} ({info.family}) has none; "
            f"leave it out"
        )
