"""Patches of a smaller picture as the prior of its enlargement: its sharp detail is copied at the finer scale.

Small pieces of a picture recur in it at other scales (Glasner et al. 2009, "Super-resolution from a single image"; as
a denoiser: Granot et al. 2022, arXiv:2103.15545). With s the scale, L(S) the small picture S reduced by s and enlarged
again, and L the enlarged small picture that guides (`lowres`), a patch of L is compared with patches of L(S), and the
difference between S and L(S) is copied (Freeman et al. 2002, "Example-based super-resolution"):

    E[x | x_t, L] = L + sum_p w_p (p - L(p)),   log w_p = - |x_t / alpha_t - L - (p - L(p))|^2 / 2 r^2 - |L - L(p)|^2 /
    2 tau^2,   r = sigma_t / alpha_t.

Without a guide, whole patches are compared and copied.

The similarity between two scales decreases with the distance between them, and S reduced by 4 has few patches left. So
scales of 2 sqrt 2 and above are a cascade of factors near 2: the next S is one estimate of each stage, made consistent
with the previous stage (Irani & Peleg 1991), and the last S, enlarged, guides the last stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Level
from editkit.diffusion.windows import Windowed
from editkit.errors import ModelError
from editkit.models.patches.atlas import Atlas
from editkit.models.patches.denoise import FLOOR, Settings
from editkit.models.patches.info import PATCHES, Ladder
from editkit.models.patches.places import compared_patches
from editkit.models.patches.search import Queries, Sources, refine_matches, shortlist
from editkit.pictures.resizing import resize

MOST = 6_000
"""Number of sources compared with every patch; the others are found through neighbours."""

DENSE = 1 << 18
"""Above this many pixels, only every second patch in each direction is estimated."""

WIDTH = 2.0
"""Width of a patch's vote, in pixels."""

TAU = 0.02
"""Standard deviation of the guide's pixels: the guide is exact, but two scales of a picture are not quite alike."""

CANDIDATES = 8
"""Number of sources that the sum runs over."""

ROUNDS = 4
"""Number of back-projections onto the picture that a stage enlarges."""


def enlarging_model(small: Tensor, scale: float, window: int) -> Windowed:
    """Return the denoiser of enlargements of `small` (1, 3, h, w) by `scale`: the cascade's last stage, in windows."""
    stages = max(1, round(math.log2(scale)))
    factor, width = scale ** (1.0 / stages), small.shape[-1]
    for _ in range(stages - 1):
        small = _enlarge_stage(small, factor, window)
    last = scale * width / small.shape[-1]
    return Windowed(Enlarging(small, last), window, 2 * Settings().side, batch=1)


def _enlarge_stage(small: Tensor, factor: float, window: int) -> Tensor:
    """Estimate `small` enlarged by `factor`, such that its reduction is `small`."""
    size = [round(n * factor) for n in small.shape[-2:]]
    guide = resize(small, *size)
    model = Windowed(Enlarging(small, factor), window, 2 * Settings().side, batch=1)
    (made,) = model(torch.zeros_like(guide), Ladder().level(1.0), [Conditioning(lowres=guide)])
    x = made.x0
    for _ in range(ROUNDS):
        x = x + resize(small - resize(x, *small.shape[-2:]), *size)
    return x.clamp(-1, 1)


class _LazyAtlas(Atlas):
    """Cuts patches on request: one row per patch would be 147 times the size of the picture."""

    def patches(self, corners: Tensor, offsets: Tensor | None = None) -> Tensor:
        return super().patches(corners, self.offsets if offsets is None else offsets)


@dataclass(frozen=True, eq=False)
class Enlarging(PixelSpace):
    """The denoiser for enlargements, of any size, of `small` (1, 3, h, w) by `scale`.

    Raises:
        ModelError: the picture is smaller than a patch.
    """

    small: Tensor
    scale: float

    def __post_init__(self) -> None:
        side, (height, width) = Settings().side, self.small.shape[-2:]
        if min(height, width) < side:
            raise ModelError(
                f"patches compares squares of {side}x{side} pixels, and the picture is only {width}x{height}: use a "
                "larger picture, or another --model"
            )

    @property
    def info(self) -> ModelInfo:
        return PATCHES

    @property
    def schedule(self) -> Ladder:
        return Ladder()

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Enlarging:
        return self

    def sharpened(self, lowres: Tensor) -> Tensor:
        """Return the last stage's small picture, enlarged to the size of `lowres`."""
        return resize(self.small, *lowres.shape[-2:])

    @cached_property
    def reduced(self) -> Tensor:
        """L(S), in the size of `small`: `small` reduced by `scale` and enlarged again."""
        height, width = self.small.shape[-2:]
        fewer = (max(1, round(n / self.scale)) for n in (height, width))
        return resize(resize(self.small, *fewer), height, width)

    @cached_property
    def atlas(self) -> Atlas:
        return _picture_atlas(self.small[0])

    @cached_property
    def detail(self) -> Atlas:
        """S - L(S)."""
        return _picture_atlas(self.small[0] - self.reduced[0])

    @cached_property
    def sources(self) -> Sources:
        """Patches of detail, and their guides."""
        spots = self.detail.offsets
        return Sources(self.detail, _picture_atlas(self.reduced[0]), self.detail.sample_corners(MOST), spots)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        """Return E[x | x_t, lowres] for each conditioning; x_t is (b, 3, h, w) of any size."""
        made = []
        for cond in conds:
            lowres = [None] * len(x_t) if cond.lowres is None else list(cond.lowres.expand(len(x_t), -1, -1, -1))
            x0 = torch.stack([self._estimate(x, level, low) for x, low in zip(x_t, lowres, strict=True)])
            made.append(Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-8)))
        return tuple(made)

    def _estimate(self, x_t: Tensor, level: Level, lowres: Tensor | None) -> Tensor:
        """Return x0 (3, h, w)."""
        base = torch.zeros_like(x_t) if lowres is None else lowres
        atlas = self.atlas if lowres is None else self.detail
        sources = Sources(atlas, None, atlas.sample_corners(MOST), atlas.offsets) if lowres is None else self.sources
        ratio = level.sigma / max(level.alpha, 1e-3)
        height, width = x_t.shape[-2:]
        layout = _picture_atlas(x_t / max(level.alpha, 1e-3) - base)
        everywhere = torch.ones(height, width, dtype=torch.bool, device=x_t.device)
        stride = 1 if self.small[0, 0].numel() * self.scale**2 <= DENSE else 2
        corners, neighbours, _ = compared_patches(everywhere, atlas.side, width, stride)
        around = [(dy, dx) for dy in (-stride, 0, stride) for dx in (-stride, 0, stride) if dy or dx]
        steps = torch.tensor([-(dy * atlas.width + dx) for dy, dx in around], device=x_t.device)
        values = layout.patches(corners)
        weights = values.new_full(values.shape[:2], max(ratio, FLOOR) ** -2)
        guide = None if lowres is None else _picture_atlas(lowres).patches(corners)
        queries = Queries(values, weights, guide, TAU**-2, neighbours, steps)
        with torch.no_grad():
            best = refine_matches(queries, sources, shortlist(queries, sources, 8), CANDIDATES, rounds=2)
        shares = (-0.5 * sources.distance(queries, best)).softmax(dim=-1)
        patches = torch.einsum("qk,qkic->qic", shares, atlas.patches(best))
        return base + _average_overlaps(patches, corners, layout, x_t.shape)


def _average_overlaps(patches: Tensor, corners: Tensor, layout: Atlas, shape: Sequence[int]) -> Tensor:
    """Average overlapping `patches` (Q, side^2, c) at `corners` (Q,), with most weight on their middles: (c, h, w)."""
    r = torch.arange(layout.side, device=patches.device) - (layout.side - 1) / 2
    kernel = torch.exp(-(r[:, None] ** 2 + r[None, :] ** 2).reshape(-1, 1) / (2.0 * WIDTH**2))
    weighted = torch.cat([patches * kernel, kernel.expand(len(patches), -1, -1)], -1).flatten(0, 1)
    index = (corners[:, None] + layout.offsets).reshape(-1)
    total = weighted.new_zeros(len(layout.pixels), weighted.shape[-1]).index_add(0, index, weighted)
    return (total[:, :-1] / total[:, -1:]).T.reshape(tuple(shape))


def _picture_atlas(picture: Tensor) -> Atlas:
    """Return the atlas of one picture (c, h, w), all of it known."""
    known = torch.ones(picture.shape[-2:], dtype=torch.bool, device=picture.device)
    made = Atlas.of([picture], [known], Settings().side)
    return _LazyAtlas(made.pixels, made.width, made.side, made.complete)
