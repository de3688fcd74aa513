"""The denoiser for one picture: queries, nearest sources, posterior mean, votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.diffusion.model import Example
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models.patches.atlas import Atlas, join_side_by_side, views
from editkit.models.patches.busy import busyness, expected_busyness
from editkit.models.patches.calm import smooth_calm_regions
from editkit.models.patches.continuing import Continuations, contours_through, divided_membrane, offer_contours
from editkit.models.patches.contours import Contour
from editkit.models.patches.info import LARGEST
from editkit.models.patches.islands import remove_islands
from editkit.models.patches.pieces import LONGEST, fill_by_pieces
from editkit.models.patches.places import PixelsBetween, all_but_seeds, compared_patches, sample_offsets
from editkit.models.patches.search import (
    Queries,
    Sources,
    exact_posterior_mean,
    grow_coherent_matches,
    refine_matches,
    shortlist,
)
from editkit.models.patches.thin import thin_patches
from editkit.models.patches.votes import Voters
from editkit.pictures.filling import depth_in, fill_hole, smooth_fill
from editkit.pictures.picture import Fill

DEEPEST = 30.0
"""Precision and confidence fall with depth in the hole, up to this many pixels."""

QUIET = 0.06
"""A pass is at its end if sigma_t / alpha_t is below this: calm regions then become a membrane."""

PIXEL_CHUNK = 1 << 16
"""Number of pixels between patches that are held at once."""

FLOOR = 0.02
"""Minimum standard deviation of any pixel: 8-bit greys about three levels apart count as equal."""


@dataclass(frozen=True)
class Settings:
    """Sizes and precisions of the `patches` model.

    Args:
        side: side of a patch, odd.
        most: number of sources compared with every patch; the others are found through neighbours.
        exact: up to this many pairs of patches, the sum runs over all sources.
        candidates: otherwise, the number of nearest sources that the sum runs over.
        dense: above this many unknown pixels, every second patch in each direction is used: they still overlap.
        deep: every third patch is used in a large hole of at least this depth, in pixels.
        tau: standard deviation of known pixels as a fraction of sigma_t / alpha_t, while that ratio is large: a known
            pixel has more weight than a noisy one.
        tau_lowres: standard deviation of the guiding picture.
        tau_smooth: standard deviation of a fill that continues the surroundings, as the guide if there is no other.
        fade: the precision of an unknown pixel falls by this factor per pixel of depth in the hole.
        decay: the vote of a patch falls by this factor per pixel of depth: pixels near the known ones settle first and
            determine the rest.
        kappa: a guided patch continues its shallower neighbour's source while the distance is at most 1 + kappa times
            that of its own nearest source, so that whole pieces are copied (Hertzmann et al. 2001, section 3.1, and
            Ashikhmin 2001).
        ramp: depth, in pixels, from which the whole kappa applies: in thin holes the surroundings are better evidence.
        bias: a copied patch is shifted by the difference between the guiding pictures' means, at most by this value
            (Darabi et al. 2012, "Image melding"): pieces of a smooth background then join without a step.
        mirror: also use mirrored patches.
        scales: also use patches of the pictures scaled down by these factors.
    """

    side: int = 7
    most: int = 3_000
    exact: int = 1 << 20
    candidates: int = 4
    dense: int = 4000
    deep: float = 16.0
    tau: float = 0.3
    tau_lowres: float = 0.1
    tau_smooth: float = 0.3
    fade: float = 1.5
    decay: float = 1.3
    kappa: float = 3.0
    ramp: float = 4.0
    bias: float = 0.05
    mirror: bool = False
    scales: tuple[float, ...] = ()

    def bytes(self, height: int, width: int, beside: int = 0) -> int:
        """Estimate the bytes for a picture of this size: every patch as a row, the keys, the queries, their candidates.

        `beside` is the number of pixels of the examples' part of the atlas.
        """
        views = (2 if self.mirror else 1) * (1.0 + sum(scale**2 for scale in self.scales))
        atlas = round((height * width + beside) * views)
        row = 3 * self.side**2 * 4
        return atlas * row + min(self.most, atlas) * 2 * row + min(height * width, 1 << 16) * 3 * row


@dataclass(frozen=True, eq=False)
class Bound:
    """The model for one picture (3, h, w). Pixels of `region` (h, w) are estimated; the others are returned unchanged.

    `barred` (h, w) pixels are known but neither copied nor continued: they are no sources and have no weight, and
    `seen` has their surroundings continued over them. `examples` are other pictures whose patches are also sources;
    `own` means that the first one is this picture, at this size.
    """

    settings: Settings
    picture: Tensor
    seen: Tensor
    region: Tensor
    barred: Tensor
    atlas: Atlas
    grid: Tensor
    corners: Tensor
    neighbours: Tensor
    steps: Tensor
    precision: Tensor
    depth: Tensor
    slack: Tensor
    voters: Voters
    spots: Tensor
    fill: Fill | None
    unguided: bool
    examples: Sequence[Example] = ()
    own: bool = False

    @classmethod
    def of(  # long: each bound value follows from those before it and is used once
        cls,
        picture: Tensor,
        unknown: Tensor | None,
        settings: Settings,
        examples: Sequence[Example] = (),
        fill: Fill | None = None,
        barred: Tensor | None = None,
        own: bool = False,
    ) -> Bound:
        """Bind the model to `picture`; `unknown` and `barred` are (h, w), bool.

        Without `unknown`, every pixel is known and every pixel is estimated. Without `barred`, nothing is barred.
        `fill` is the first guide ("noise": no guide; None: pieces of the picture, or smooth with examples). `own`: the
        first example matches the picture place by place.
        """
        side = settings.side
        height, width = picture.shape[-2:]
        check_large_enough(height, width, side)
        known = picture.new_ones(height, width, dtype=torch.bool) if unknown is None else ~unknown
        region = torch.ones_like(known) if unknown is None else unknown
        pictures = [picture, *(example.image for example in examples)]
        kept = known if barred is None else known & ~barred
        flags = [kept]
        flags += [known.new_ones(e.image.shape[-2:]) if e.unseen is None else ~e.unseen for e in examples]
        atlas = Atlas.of(
            views(pictures, settings.mirror, settings.scales), views(flags, settings.mirror, settings.scales), side
        )
        if len(atlas.corners) == 0:
            raise ModelError(_no_patches_message(side, region, known & ~kept))
        nothing = not bool(known.any())
        depth = torch.zeros_like(picture[0]) if unknown is None or nothing else depth_in(unknown)
        stride = 1
        if int(region.sum()) > settings.dense:
            stride = 3 if float(depth.max()) >= settings.deep else 2
        corners, neighbours, steps = compared_patches(region, side, atlas.width, stride)
        depth = F.pad(depth, (0, atlas.width - width)).reshape(-1)
        deep = depth[corners + atlas.offsets[side * side // 2]]
        slack = settings.kappa * ((deep - 1.0) / settings.ramp).clamp(0.0, 1.0)
        confidence = settings.decay ** -deep.clamp(max=DEEPEST)
        if nothing:  # no rim to grow from, and no pixels near one that deserve more trust
            deep = depth_in(all_but_seeds(height, width)).to(picture)[corners // atlas.width, corners % atlas.width]
            slack = torch.full_like(deep, settings.kappa)
        barred = known & ~kept if bool(kept.any()) else torch.zeros_like(known)
        return cls(
            settings, picture, _continue_over_barred(picture, barred, region), region, barred, atlas,
            atlas.sample_corners(settings.most), corners, neighbours, steps,
            settings.fade ** -depth.clamp(max=DEEPEST), deep, slack, Voters(corners, atlas, stride, confidence),
            sample_offsets(atlas.offsets.view(side, side)), fill, nothing or unknown is None,
            tuple(examples), own,
        )  # fmt: skip

    @property
    def by_pieces(self) -> bool:
        """Whether the first guide is made of pieces of the picture."""
        may_be = self.fill is None and not self.unguided and not self.examples
        return may_be and max(self.region.shape) <= LONGEST and int(self.region.sum()) <= LARGEST

    @cached_property
    def first_guide(self) -> Tensor | None:
        """The guide (3, h, w) if there is no coarser pass; None without one."""
        if self.unguided or self.fill == "noise":
            return None
        if self.by_pieces:
            return fill_by_pieces(self.seen, self.region, ~self.region & ~self.barred)
        if self.fill in (None, "smooth") and self.contours:
            return divided_membrane(self.seen, self.region, self.contours)
        return fill_hole(self.seen[None], self.region[None, None].to(self.picture.dtype), self.fill or "smooth")[0]

    @cached_property
    def contours(self) -> list[Contour]:
        """The contours that continue through the hole; none if the picture is not the only guide."""
        return [] if self.unguided else contours_through(self.seen, self.region | self.barred)

    @cached_property
    def continuations(self) -> Continuations | None:
        """Where patches continue these contours."""
        return Continuations.of(self.contours, self.region, self.settings.side // 2 + 1, self.atlas)

    def denoise(self, x_t: Tensor, level: Level, lowres: Tensor | None) -> Tensor:
        """Return E[x | x_t, known pixels, lowres], (3, h, w); all three pictures have this size."""
        if len(self.corners) == 0:
            return self.picture
        lowres = None if lowres is None else _continue_over_barred(lowres, self.barred, torch.zeros_like(self.barred))
        queries, sources = self._make_queries(x_t, level, lowres), self._make_sources(lowres)
        source: Tensor | None = None
        if len(queries) * len(self.atlas.corners) <= self.settings.exact:
            patches = exact_posterior_mean(queries, sources)
        else:
            with torch.no_grad():
                short = shortlist(queries, sources, 8)
                if lowres is not None and self.continuations is not None:
                    short = offer_contours(queries, sources, short, self.continuations)
                best = refine_matches(queries, sources, short, self.settings.candidates, rounds=2)
                source = best[:, 0] if lowres is None else self._grow(queries, sources, best[:, 0], lowres)
            weights = (-0.5 * sources.distance(queries, best)).softmax(dim=-1)
            patches = torch.einsum("qk,qkic->qic", weights, self.atlas.patches(best))
            if lowres is not None:
                patches = self._copy_patches(queries, sources, source) + patches - patches.detach()
        quiet, chosen = level.sigma < QUIET * level.alpha, None
        if quiet and lowres is not None and source is not None and self.voters.stride > 1:
            chosen = self._choose_between(x_t, level, lowres, sources, source)
        voted = self.voters.vote(patches, level.t, self.picture.shape, lowres is not None, chosen)
        made = voted.where(self.region, self.seen)
        if not self.unguided and quiet:
            least = self._expected_busyness[0] - self._expected_busyness[1] / 2.0
            made = made + (remove_islands(made.detach(), self.region, least, self.settings.side) - made.detach())
        if lowres is not None and quiet:
            made = made + (smooth_calm_regions(made.detach(), self.region) - made.detach())
        return made.where(self.region, self.picture)

    def _choose_between(
        self, x_t: Tensor, level: Level, lowres: Tensor, sources: Sources, source: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the pixels between patches with different `source`s, (p,), and their colours (p, 3)."""
        corners, found = self.between.choices(source, self.corners, self.atlas)
        middle = self.settings.side**2 // 2
        colours = [self.picture.new_zeros(0, self.picture.shape[0])]
        with torch.no_grad():
            for first in range(0, len(corners), PIXEL_CHUNK):
                some, choices = corners[first : first + PIXEL_CHUNK], found[first : first + PIXEL_CHUNK]
                queries = self._make_queries(x_t, level, lowres, some)
                best = choices.gather(1, sources.distance(queries, choices).argmin(1, keepdim=True))[:, 0]
                colours.append(self._copy_patches(queries, sources, best)[:, middle])
        return corners + self.atlas.offsets[middle], torch.cat(colours)

    @cached_property
    def between(self) -> PixelsBetween:
        """The pixels between the compared patches."""
        return PixelsBetween.of(self.corners, self.region, self.atlas.width, self.settings.side, self.voters.stride)

    def _grow(self, queries: Queries, sources: Sources, corners: Tensor, lowres: Tensor) -> Tensor:
        """Return coherent matches (Q,) where the guide leaves a choice.

        The guide lacks detail of variance |x - L(x)|^2, measured where x is known and continued into the hole. Sources
        whose guides differ by no more than that at each compared pixel, but at most by twice tau, are equally good.
        """
        lost = (self.seen - lowres).square().mean(0, keepdim=True)
        lost = smooth_fill(lost[None], self.region[None, None].to(lost.dtype))[0]
        values = len(self.spots) * self.picture.shape[0]
        floor = values * (self._layout(lost)[self._middle, 0] / self.settings.tau_lowres**2).clamp(max=4.0)
        return grow_coherent_matches(queries, sources, corners, self.depth, self.slack, floor)

    def _copy_patches(self, queries: Queries, sources: Sources, corners: Tensor) -> Tensor:
        """Return the patches at `corners` (Q,), shifted towards the guide's mean colour there: (Q, side^2, c)."""
        patches = self.atlas.patches(corners)
        if queries.guide is None or sources.guide is None:
            return patches
        apart = (queries.guide - sources.guide.patches(corners, self.spots)).mean(1, keepdim=True)
        return patches + apart.clamp(-self.settings.bias, self.settings.bias)

    def _make_queries(self, x_t: Tensor, level: Level, lowres: Tensor | None, corners: Tensor | None = None) -> Queries:
        """Return the patches over the region: known pixels clean, the others at the scale of clean pictures.

        `corners` (q,) are those of other patches, which have no neighbours.
        """
        at, neighbours = (self.corners, self.neighbours) if corners is None else (corners, self.neighbours[:0])
        middle = at + self.atlas.offsets[self.settings.side**2 // 2]
        ratio = level.sigma / max(level.alpha, 1e-3)
        noisy = max(ratio, FLOOR)
        tau = max(self.settings.tau * noisy, min(0.1, noisy))
        flat = self._layout((x_t / max(level.alpha, 1e-3)).where(self.region, self.seen))
        region = self._layout(self.region[None])[:, 0]
        weights = torch.where(region, self.precision / noisy**2, 1.0 / tau**2).to(flat.dtype)
        weights = weights.masked_fill(self._layout(self.barred[None])[:, 0], 0.0)
        index = at[:, None] + self.atlas.offsets
        guide_picture = self.first_guide if lowres is None else lowres
        guide = None if guide_picture is None else self._layout(guide_picture)[at[:, None] + self.spots]
        tau_guide = self.settings.tau_lowres if lowres is not None or self.by_pieces else self.settings.tau_smooth
        lines = None if lowres is None else self.continuations
        may_be_thin = None if lowres is None or self.unguided else self._layout(self.thin[1][None])[middle, 0]
        if may_be_thin is not None and lines is not None:
            may_be_thin &= ~self._layout(lines.around[None])[middle, 0]
        busyness = (
            None if lowres is None or self.unguided else self._layout(torch.stack(self._expected_busyness))[middle]
        )
        own = at + self.picture.shape[-1] if self.own else None
        contour = None if lines is None else self._layout(lines.number[None])[middle, 0]
        across = None if lines is None else self._layout(lines.across[None])[middle, 0]
        return Queries(
            flat[index], weights[index], guide, tau_guide**-2, neighbours, self.steps, may_be_thin, busyness, own,
            contour, across,
        )  # fmt: skip

    def _make_sources(self, lowres: Tensor | None) -> Sources:
        atlas = self.atlas
        guide_picture = self.first_guide if lowres is None else lowres
        guide = None
        if guide_picture is not None:
            beside = [e.image if lowres is None or e.lowres is None else e.lowres for e in self.examples]
            guide = Atlas(self._layout(guide_picture, beside), atlas.width, atlas.side, atlas.complete)
        grid, is_thin = self.grid, None
        if lowres is not None and not self.unguided:
            by_middle = self._layout(self.thin[0][None], [torch.zeros_like(e.image[:1]) > 0 for e in self.examples])
            is_thin = by_middle[:, 0].roll(-int(atlas.offsets[self.settings.side**2 // 2]))
            if not bool(self.thin[1].any()) and not bool(is_thin[grid].all()):
                grid = grid[~is_thin[grid]]
        busyness = None if lowres is None or self.unguided else self._busyness
        lines = None if lowres is None else self.continuations
        contour, across = (None, None) if lines is None else (lines.shown, lines.apart)
        return Sources(atlas, guide, grid, self.spots, is_thin, busyness, contour, across)

    @cached_property
    def _busyness(self) -> Tensor:
        """How busy each patch is, (pixels,), by corner."""
        side, examples = self.settings.side, [e.image for e in self.examples]
        by_middle = self._layout(self._picture_busyness[None], [busyness(image, side)[None] for image in examples])
        return by_middle[:, 0].roll(-int(self.atlas.offsets[side**2 // 2]))

    @cached_property
    def _picture_busyness(self) -> Tensor:
        """How busy the picture is, (h, w), with a smooth fill in place of unknown pixels."""
        hidden = self.region[None, None].to(self.seen.dtype)
        return busyness(smooth_fill(self.seen[None], hidden)[0], self.settings.side)

    @cached_property
    def _expected_busyness(self) -> tuple[Tensor, Tensor]:
        return expected_busyness(self._picture_busyness, self.region | self.barred, self.settings.side)

    @cached_property
    def thin(self) -> tuple[Tensor, Tensor]:
        """Patches that have a lone line, and patches that may have one, (h, w) each, by the patches' middles."""
        return thin_patches(self.seen, self.region, self.settings.side)

    @property
    def _middle(self) -> Tensor:
        """Middle pixels of the queries, (Q,)."""
        return self.corners + self.atlas.offsets[self.settings.side**2 // 2]

    def _layout(self, image: Tensor, beside: Sequence[Tensor] = ()) -> Tensor:
        """Lay out a picture of this size (c, h, w), with any examples `beside` it, as in the atlas: (pixels, c)."""
        joined = join_side_by_side(views([image, *beside], self.settings.mirror, self.settings.scales))
        return F.pad(joined, (0, self.atlas.width - joined.shape[-1])).flatten(1).T.contiguous()


def check_large_enough(height: int, width: int, side: int) -> None:
    """Refuse pictures smaller than a patch.

    Raises:
        ModelError: the picture is smaller than a patch.
    """
    if min(height, width) < side:
        raise ModelError(
            f"patches compares squares of {side}x{side} pixels, and the picture is only {width}x{height} here: "
            "use a larger picture, or another --model"
        )


def _no_patches_message(side: int, region: Tensor, barred: Tensor) -> str:
    """Return the message that there is no patch to learn from, and how to fix it."""
    also = f", of {int(barred.sum())} more nothing may be copied" if bool(barred.any()) else ""
    return (
        f"the mask leaves no known square of {side}x{side} pixels to learn from ({int(region.sum())} of "
        f"{region.numel()} pixels are masked{also}): use a smaller mask, {'bar less, ' * bool(also)}give another "
        "picture with --from, or use another --model"
    )


def _continue_over_barred(picture: Tensor, barred: Tensor, unknown: Tensor) -> Tensor:
    """Continue the known pixels of `picture` (c, h, w) that are not `barred` (h, w) smoothly over the barred ones."""
    if not bool(barred.any()):
        return picture
    hidden = (barred | unknown)[None, None].to(picture.dtype)
    return smooth_fill(picture[None], hidden)[0].where(barred, picture)
