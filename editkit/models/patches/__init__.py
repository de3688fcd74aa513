"""`patches`: the picture as its own prior, with nothing to train.

The exact denoiser of the empirical distribution of the picture's known patches p: a noisy patch x_t of a picture whose
known pixels y are given becomes

    E[p | x_t, y] = sum_p w_p p / sum_p w_p,   log w_p = - |x_t - alpha_t p|^2 / 2 sigma_t^2 - |y - p|^2 / 2 tau_t^2,

the first sum over its unknown pixels, the second over its known ones, and overlapping patches vote for every pixel (the
local score of Kamb & Ganguli 2024, arXiv:2412.20292; coarse to fine as in Granot et al. 2022, "Drop the GAN",
arXiv:2103.15545). At high noise this is a soft average; at low noise it is the nearest patch, and the reverse process
becomes the alternation of search and vote of Wexler et al. 2007. A guiding low-resolution picture L (`lowres`: the
enlarged coarser pass) adds - |L(x) - L(p)|^2 / 2 tau_L^2: blurred is compared with blurred, and sharp is copied, as in
image analogies (Hertzmann et al. 2001).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.errors import ModelError
from editkit.models.base import Conditioning, ModelInfo, PixelSpace, Prediction
from editkit.models.patches.atlas import Atlas
from editkit.models.patches.search import Queries, Sources, improve, shortlist
from editkit.schedule import Grid, Level, Levels, Spacing

__all__ = ["Patches"]

ANY_GRID = Grid()

INFO = ModelInfo(
    "patches", "the picture's own patches", takes=frozenset({"lowres"}), sampler="ddim", steps=22, own_picture=True
)

EXACT = 1 << 22
"""Up to so many pairs of patches the softmax runs over all sources, whatever the noise."""

DENSE = 4000
"""Above so many unknown pixels every second patch in each direction is enough: they still overlap."""

FLOOR = 0.02
"""No pixel is trusted to better than this: two 8-bit greys of about three levels apart are equal."""


@dataclass(frozen=True)
class Ladder:
    """alpha_t = cos(pi t / 2), sigma_t = sin(pi t / 2), with sigma_t / alpha_t in equal ratios from `high` to `low`.

    The last step must be quiet: whatever noise is left decides between patches of a smooth sky, and mottles it.
    """

    high: float = 6.3
    low: float = 0.05

    def level(self, t: float) -> Level:
        if t >= 1.0:
            return Level(1.0, 0.0, 1.0)
        return Level(t, math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))

    def levels(self, steps: int, spacing: Spacing = "auto", grid: Grid = ANY_GRID) -> Levels:
        rise = (self.high / self.low) ** (1.0 / max(steps - 1, 1))
        ratios = [self.high / rise ** (steps - k) for k in range(1, steps + 1)]
        rungs = [self.level(0.0), *(self.level(math.atan(ratio) * 2.0 / math.pi) for ratio in ratios)]
        return tuple(Level(v.t, v.alpha, v.sigma, k) for k, v in enumerate(rungs))

    def prior_scale(self, level: Level, spacing: Spacing = "auto", grid: Grid = ANY_GRID) -> float:
        return 1.0


@dataclass(frozen=True, eq=False)
class Patches(PixelSpace):
    """The denoiser; bound to a picture by `attach`.

    Args:
        side: of a patch, odd.
        most: sources that are compared with every patch; the rest is found through neighbours.
        tau: standard deviation of the known pixels, as a fraction of sigma_t / alpha_t, at least 0.1 (a known pixel
            counts for more than a noisy one, and no patch fits exactly).
        tau_lowres: standard deviation of the guiding picture.
        decay: votes of a patch fade by this factor for each pixel its centre lies away from what is known.
    """

    side: int = 7
    most: int = 12_000
    tau: float = 0.3
    tau_lowres: float = 0.05
    decay: float = 1.2
    candidates: int = 4
    _bound: tuple[_Bound, ...] = ()

    @property
    def info(self) -> ModelInfo:
        return INFO

    @property
    def schedule(self) -> Ladder:
        return Ladder()

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Patches:
        """This model with the known patches of `picture` (b, 3, h, w), `mask` (b, 1, h, w), 1 = unknown.

        Raises:
            ModelError: no patch is known, the picture is smaller than a patch, or memory is short.
        """
        if picture is None:
            raise ModelError("patches takes its prior from a picture, and there is none: give one, or another --model")
        if mask is None:
            mask = torch.zeros_like(picture[:, :1])
        mask = mask.expand(len(picture), -1, -1, -1)
        _afford(self.most, self.side)
        bound = tuple(_Bound.of(p, m[0] > 0, self) for p, m in zip(picture, mask, strict=True))
        return Patches(self.side, self.most, self.tau, self.tau_lowres, self.decay, self.candidates, bound)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        """E[x | x_t, known pixels] for each conditioning; x_t (b, 3, h, w). Known pixels are given back as they are."""
        if not self._bound:
            raise ModelError("patches is not bound to a picture: call attach(picture, mask) first")
        guides = {id(c.lowres): c.lowres for c in conds}
        made: dict[int, Prediction] = {}
        for key, guide in guides.items():
            bound = self._bound if len(self._bound) > 1 else self._bound * len(x_t)
            lowres = [None] * len(x_t) if guide is None else guide.expand(len(x_t), -1, -1, -1)
            x0 = torch.stack([b.denoise(x, level, g) for b, x, g in zip(bound, x_t, lowres, strict=True)])
            eps = (x_t - level.alpha * x0) / max(level.sigma, 1e-8)
            made[key] = Prediction(x0, eps)
        return tuple(made[id(c.lowres)] for c in conds)


@dataclass(frozen=True, eq=False)
class _Bound:
    """The model for one picture (3, h, w) with what is unknown of it (h, w)."""

    model: Patches
    picture: Tensor
    unknown: Tensor
    atlas: Atlas
    grid: Tensor
    corners: Tensor
    neighbours: Tensor
    steps: Tensor
    stride: int
    confidence: Tensor
    spots: Tensor

    @classmethod
    def of(cls, picture: Tensor, unknown: Tensor, model: Patches) -> _Bound:
        side = model.side
        height, width = picture.shape[-2:]
        if min(height, width) < side:
            raise ModelError(
                f"patches compares squares of {side}x{side} pixels, and the picture is only {width}x{height} here: "
                "use a larger picture, or another --model"
            )
        atlas = Atlas.of([picture], [~unknown], side)
        if len(atlas.corners) == 0:
            raise ModelError(
                f"the mask leaves no known square of {side}x{side} pixels to learn from ({int(unknown.sum())} of "
                f"{unknown.numel()} pixels are masked): use a smaller mask, or another --model"
            )
        stride = 2 if unknown.sum() > DENSE else 1
        corners, neighbours, steps = _queries(unknown, side, width, stride)
        confidence = model.decay ** -_depth(unknown).reshape(-1)[corners + atlas.offsets[side * side // 2]]
        spots = atlas.offsets.view(side, side)[:: side // 2, :: side // 2].reshape(-1)
        return cls(
            model,
            picture,
            unknown,
            atlas,
            atlas.some(model.most),
            corners,
            neighbours,
            steps,
            stride,
            confidence,
            spots,
        )

    def denoise(self, x_t: Tensor, level: Level, lowres: Tensor | None) -> Tensor:
        if level.alpha == 0.0:
            level = Level(level.t, 1e-3, 1.0)
        if len(self.corners) == 0:
            return self.picture
        queries, sources = self._queries(x_t, level, lowres), self._sources(lowres)
        with torch.no_grad():
            dtype = torch.bfloat16 if _has_bf16() else torch.float32
            short = shortlist(queries, sources, 8, dtype)
            _, best = improve(queries, sources, short, self.model.candidates, rounds=2)
        d = sources.distance(queries, best)
        weights = (-0.5 * d).softmax(dim=-1)
        patches = torch.einsum("qk,qkic->qic", weights, self.atlas.patches(best))
        return self._vote(patches, level)

    def _queries(self, x_t: Tensor, level: Level, lowres: Tensor | None) -> Queries:
        """The patches that touch what is unknown: known pixels clean, the others at the scale of clean pictures."""
        ratio = max(level.sigma / level.alpha, FLOOR)
        unknown = self.unknown
        flat = (x_t / level.alpha).where(unknown, self.picture).flatten(1).T
        tau = max(self.model.tau * ratio, 0.1 if ratio > 0.1 else ratio)
        weights = torch.where(unknown, 1.0 / ratio**2, 1.0 / tau**2).reshape(-1)
        index = self.corners[:, None] + self.atlas.offsets
        guide = None
        if lowres is not None:
            guide = lowres.flatten(1).T[self.corners[:, None] + self.spots]
        return Queries(flat[index], weights[index], guide, self.model.tau_lowres**-2, self.neighbours, self.steps)

    def _sources(self, lowres: Tensor | None) -> Sources:
        guide = None
        if lowres is not None:
            guide = Atlas(lowres.flatten(1).T.contiguous(), self.atlas.width, self.atlas.side, self.atlas.whole)
        return Sources(self.atlas, guide, self.grid, self.spots)

    def _vote(self, patches: Tensor, level: Level) -> Tensor:
        """Each pixel is the mean of what the patches over it say, those centred near it first as noise falls."""
        side = self.model.side
        spread = _spread(level.t)
        r = torch.arange(side, dtype=torch.float32) - side // 2 - (self.stride - 1) / 2
        kernel = torch.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2.0 * spread**2)).reshape(-1)
        votes = (self.confidence[:, None] * kernel)[..., None]
        index = (self.corners[:, None] + self.atlas.offsets).reshape(-1)
        pixels = self.unknown.numel()
        joined = torch.cat([patches * votes, votes], dim=-1).view(-1, 4)
        total = torch.zeros(pixels, 4).index_add(0, index, joined)
        mean = (total[:, :3] / total[:, 3:].clamp(min=1e-12)).T.view_as(self.picture)
        return mean.where(self.unknown, self.picture)


SPREAD = [0.5, 4.0, 0.4]


def _spread(t: float) -> float:
    """Width of the votes in pixels at time t: all of a patch at high noise, its middle at low."""
    return SPREAD[0] + SPREAD[1] * max(0.0, t - SPREAD[2])


def _queries(unknown: Tensor, side: int, width: int, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (Q,) of the patches that touch the unknown, every `stride`-th; their neighbours (Q, 8); steps (8,)."""
    touching = F.max_pool2d(unknown[None].float(), side, 1)[0] > 0
    rows, columns = touching.shape
    on = [torch.zeros(n, dtype=torch.bool) for n in (rows, columns)]
    for flags in on:
        flags[::stride] = True
        flags[-1] = True
    chosen = touching & on[0][:, None] & on[1][None, :]
    at = chosen.nonzero()
    corners = at[:, 0] * width + at[:, 1]
    number = torch.full((rows + 2 * stride, columns + 2 * stride), -1, dtype=torch.long)
    number[stride + at[:, 0], stride + at[:, 1]] = torch.arange(len(at))
    neighbours, steps = [], []
    for dy in (-stride, 0, stride):
        for dx in (-stride, 0, stride):
            if dy or dx:
                found = number[stride + at[:, 0] + dy, stride + at[:, 1] + dx]
                neighbours.append(torch.where(found < 0, torch.arange(len(at)), found))
                steps.append(-(dy * width + dx))
    return corners, torch.stack(neighbours, 1), torch.tensor(steps)


def _depth(unknown: Tensor) -> Tensor:
    """Distance of each pixel to the nearest known one, in pixels (chessboard), at most 60."""
    depth = torch.zeros_like(unknown, dtype=torch.float32)
    left = unknown.float()[None]
    for _ in range(60):
        if not left.any():
            break
        depth += left[0]
        left = 1.0 - F.max_pool2d(1.0 - left, 3, 1, 1)
    return depth


def _has_bf16() -> bool:
    """True where bfloat16 products are faster than float32 ones."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _afford(most: int, side: int) -> None:
    """Refuse before anything is computed when the asked number of patches does not fit into memory."""
    needed = most * (4 * side * side + 32) * 6 + 4 * (1 << 24)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    if needed > free:
        raise ModelError(
            f"{most} patches need about {math.ceil(needed / 2**20)} MiB and {free // 2**20} MiB are free: ask for fewer"
        )
