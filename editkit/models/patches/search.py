"""Nearest-patch search: bfloat16 products for a shortlist, float32 for the order, neighbours for missed sources.

The squared distance of a noisy patch q to a source p, with a weight w_i for each pixel, is

    d(q, p) = sum_i w_i |q_i - p_i|^2 = const + [w, -2 w q] . [|p|^2, p]

so one matrix product compares every query with every source. A shortlist from a coarse grid of sources is enough,
because neighbouring patches mostly match neighbouring sources: every match, shifted accordingly, is offered to the
neighbours (Barnes et al. 2009, "PatchMatch"). This also finds sources between the points of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.models.patches.atlas import Atlas
from editkit.models.patches.threads import map_rows

DISTANCE_CHUNK = 1 << 20
"""Number of distances held at once: reducing data in the processor's cache is several times faster."""

WEIGHT_CHUNK = 1 << 17
"""Number of source weights held at once if the sum runs over all sources."""

NEGLIGIBLE_WEIGHT = 1e-20
"""Smaller weights become 0: numbers near float32's minimum make a product five times as slow."""

CANDIDATE_CHUNK = 1536
"""Number of candidates held at once while they are compared with their queries."""

LONE_LINE_PENALTY = 1e4
"""Added to the squared distance of a source not allowed for a query: more than any tolerance can offset."""

CONTOUR_PENALTY, CONTOUR_SLACK = 100.0, 1.0
"""Factor on the square of the difference between the distances of a source and a query from their contour, in pixels,
and its maximum.
"""

FREE_DEVIATIONS, BUSYNESS_PENALTY, SHORTLIST_PENALTY = 1.0, 3.0, 0.5
"""Penalty for how busy a source is: number of deviations that are free, factor on the square of the excess, and factor
on the square of all deviations in the shortlist.
"""

OWN_PLACE_PENALTY, OWN_PLACE_RADIUS = 20.0, 7
"""Added to the squared distance of a source at a query's own place, or up to this many pixels from it."""

EVEN_TONE, EVEN_TONE_SLACK = 2.0, 8.0
"""A source whose mean differs from the guide's, in each channel, by less than `EVEN_TONE` times the usual detail of the
surroundings may continue with `EVEN_TONE_SLACK` times the slack: its tone is right, and coherent texture looks better
than texture that matches the guide in every pixel. On calm ground the limit is small, so that no piece is out of place.
"""

EVEN_TONE_DEPTH = 10.0
"""Depth, in pixels, from which `EVEN_TONE_SLACK` applies: in strokes the surroundings are better evidence."""

BLOCKS = 32
"""Number of blocks. The shortlist has at most one source of each: adjacent sources are nearly the same."""


@dataclass(frozen=True, eq=False)
class Queries:
    """Noisy patches to be explained by sources of an atlas.

    Args:
        values: (Q, n, c), the patches at the scale of clean pictures; n = side^2.
        weights: (Q, n), the precision 1 / variance of each pixel.
        guide: (Q, m, c), their pixels in the guiding picture, at `spots`; None without a guide.
        precision: 1 / variance of the guiding picture's pixels.
        neighbours: (Q, 8), indices of the queries around each query; its own index where there is none.
        steps: (8,), offsets that continue a neighbour's match at this query.
        thin: (Q,), bool, where lone lines are allowed; None: anywhere.
        busy: (Q, 2), how busy a source should be, and the standard deviation; None: no preference.
        own: (Q,), corners of the sources at the queries' own places, which cost `OWN_PLACE_PENALTY`; None: no penalty.
        contour: (Q,), the number of the contour that a query continues; 0: none. None: there are no contours.
        across: (Q,), its distance from that contour, in pixels.
    """

    values: Tensor
    weights: Tensor
    guide: Tensor | None
    precision: float
    neighbours: Tensor
    steps: Tensor
    thin: Tensor | None = None
    busy: Tensor | None = None
    own: Tensor | None = None
    contour: Tensor | None = None
    across: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]

    def subset(self, rows: Tensor) -> Queries:
        """Return the queries with indices `rows` (r,); the indices of neighbours do not change."""
        guide, thin, busy, own, contour, across = (
            None if part is None else part[rows]
            for part in (self.guide, self.thin, self.busy, self.own, self.contour, self.across)
        )
        return replace(
            self, values=self.values[rows], weights=self.weights[rows], guide=guide, neighbours=self.neighbours[rows],
            thin=thin, busy=busy, own=own, contour=contour, across=across,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sources:
    """The sources for queries: an atlas, its guiding picture (same layout), and the grid of corners to search.

    `spots` are the offsets within a patch at which guiding pictures, which are smooth, are compared. `thin`, by corner,
    marks the patches with a lone line; None: no patch has one. `busy`, by corner, is how busy they are; None: ignored.
    `contour` and `across`, by corner, are the number of the contour that a patch shows and its distance from it.
    """

    atlas: Atlas
    guide: Atlas | None
    grid: Tensor
    spots: Tensor
    thin: Tensor | None = None
    busy: Tensor | None = None
    contour: Tensor | None = None
    across: Tensor | None = None

    def distance(self, queries: Queries, corners: Tensor) -> Tensor:
        """Return the exact d(q, p), (Q, k), for the sources at `corners` (Q, k).

        It is differentiable with respect to the queries. It adds `LONE_LINE_PENALTY` for a lone line where none is
        allowed, `OWN_PLACE_PENALTY` for a patch at its own place, and, for a patch flatter or busier than the
        surroundings, `BUSYNESS_PENALTY` times the square of the deviations beyond `FREE_DEVIATIONS`. A patch beside a
        contour is only for queries beside the same contour, and they take no other (`CONTOUR_PENALTY`).
        """
        channels = queries.values.shape[-1]

        def chunk(rows: slice) -> Tensor:
            p = self.atlas.patches(corners[rows]).flatten(2)
            weights = queries.weights[rows].repeat_interleave(channels, 1)
            d = ((p - queries.values[rows].flatten(1)[:, None]).square() @ weights[..., None])[..., 0]
            if self.thin is not None and queries.thin is not None:
                d = d + LONE_LINE_PENALTY * (self.thin[corners[rows]] & ~queries.thin[rows, None])
            if queries.own is not None:
                away = corners[rows] - queries.own[rows, None]
                down = torch.round(away / self.atlas.width).long()
                d = d + OWN_PLACE_PENALTY * (
                    (down.abs() <= OWN_PLACE_RADIUS) & ((away - down * self.atlas.width).abs() <= OWN_PLACE_RADIUS)
                )
            d = d + self._off_contour(queries, corners, rows)
            if self.busy is not None and queries.busy is not None:
                mean, spread = queries.busy[rows, None].unbind(-1)
                off = ((self.busy[corners[rows]] - mean).abs() / spread - FREE_DEVIATIONS).clamp(min=0.0)
                d = d + BUSYNESS_PENALTY * off.square()
            if self.guide is None or queries.guide is None:
                return d
            guide = self.guide.patches(corners[rows], self.spots) - queries.guide[rows, None]
            return d + queries.precision * guide.square().sum((-1, -2))

        return map_rows(chunk, len(queries), max(1, CANDIDATE_CHUNK // corners.shape[1]))

    def _off_contour(self, queries: Queries, corners: Tensor, rows: slice) -> Tensor | float:
        """Return the penalty for patches that are not as far from the contour of their query as the query, (r, k)."""
        if self.contour is None or self.across is None or queries.contour is None or queries.across is None:
            return 0.0
        apart = (self.across[corners[rows]] - queries.across[rows, None]).abs()
        wrong = (self.contour[corners[rows]] != queries.contour[rows, None]) | (apart > CONTOUR_SLACK)
        return (CONTOUR_PENALTY * apart.square()).masked_fill(wrong, LONE_LINE_PENALTY)

    def keys(self) -> Tensor:
        """Return the right factor of the product above for the grid, (N, d)."""
        p = self.atlas.patches(self.grid)
        parts = [p.square().sum(-1), p.flatten(1)]
        if self.guide is not None:
            guide = self.guide.patches(self.grid, self.spots).flatten(1)
            parts += [guide, guide.square().sum(-1, keepdim=True)]
        if self.busy is not None:
            busy = self.busy[self.grid, None]
            parts += [busy.square(), busy]
        return torch.cat(parts, dim=1)

    def query_vectors(self, queries: Queries) -> Tensor:
        """Return the left factor, (Q, d)."""
        w = queries.weights
        parts = [w, (-2.0 * w[..., None] * queries.values).flatten(1)]
        if queries.guide is not None:
            parts += [-2.0 * queries.precision * queries.guide.flatten(1), w.new_full((len(w), 1), queries.precision)]
        if queries.busy is not None:
            mean, spread = queries.busy.unbind(-1)
            scale = SHORTLIST_PENALTY / spread.square()
            parts += [scale[:, None], (-2.0 * scale * mean)[:, None]]
        return torch.cat(parts, dim=1)


def exact_posterior_mean(queries: Queries, sources: Sources) -> Tensor:
    """Return the exact posterior mean over all sources of the atlas, (Q, n, c)."""
    all_sources = replace(sources, grid=sources.atlas.corners, thin=None, busy=None)
    queries = replace(queries, busy=None)
    left, keys = all_sources.query_vectors(queries), all_sources.keys().T
    patches = all_sources.atlas.patches(all_sources.grid).flatten(1)

    def chunk(rows: slice) -> Tensor:
        weights = (-0.5 * (left[rows] @ keys)).softmax(dim=-1)
        return F.threshold(weights, NEGLIGIBLE_WEIGHT, 0.0) @ patches

    return map_rows(chunk, len(queries), max(1, WEIGHT_CHUNK // len(patches))).view_as(queries.values)


def shortlist(queries: Queries, sources: Sources, k: int) -> Tensor:
    """Return corners (Q, k) of roughly the nearest sources of the grid, by bfloat16 products where those are fast."""
    dtype = torch.bfloat16 if _has_bf16() else torch.float32
    keys, left = sources.keys().to(dtype), sources.query_vectors(queries).to(dtype)
    n = len(keys)
    blocks = max(1, min(BLOCKS, n // 4))
    size = n // blocks  # up to `blocks` - 1 sources at the end are only found through neighbours
    keys = keys[: blocks * size]
    starts = torch.arange(blocks, device=keys.device) * size

    def chunk(rows: slice) -> Tensor:
        best, where = (left[rows] @ keys.T).view(-1, blocks, size).min(-1)
        pick = best.topk(min(k, blocks), dim=-1, largest=False).indices
        return (where + starts).gather(1, pick)

    return sources.grid[map_rows(chunk, len(left), max(1, DISTANCE_CHUNK // n))]


def refine_matches(queries: Queries, sources: Sources, corners: Tensor, k: int, rounds: int) -> Tensor:
    """Return the best k (Q, k) of `corners` (Q, k'), the neighbours' matches and the patches beside the best match."""
    complete = sources.atlas.complete
    d = sources.distance(queries, corners)
    d, corners = _k_best(d, corners, k)
    width = sources.atlas.width
    jitter = torch.tensor([1, -1, width, -width], device=corners.device)
    for _ in range(rounds):
        propagated = corners[:, 0][queries.neighbours] + queries.steps
        jittered = corners[:, :1] + jitter
        candidates = torch.cat([propagated, jittered], dim=1)
        allowed = (candidates >= 0) & (candidates < len(complete))
        candidates = candidates.clamp(0, len(complete) - 1)
        allowed &= complete[candidates]
        candidates = candidates.where(allowed, corners[:, :1])
        more = sources.distance(queries, candidates).masked_fill(~allowed, float("inf"))
        d, corners = _k_best(torch.cat([d, more], 1), torch.cat([corners, candidates], 1), k)
    return corners


def grow_coherent_matches(
    queries: Queries, sources: Sources, corners: Tensor, depth: Tensor, slack: Tensor, floor: Tensor | float = 0.0
) -> Tensor:
    """Return coherent matches (Q,), grown from the rim of the hole inwards.

    A patch at `depth` (Q,) continues the source of a shallower neighbour, shifted accordingly, if its distance is at
    most 1 + `slack` (Q,) times that of the patch's own nearest source at `corners` (Q,): Hertzmann et al. 2001, section
    3.1, with their kappa. Distances below `floor` (Q,) are not significant and count as `floor`. Independent nearest
    sources form a mosaic whose overlaps average to a flat result, and flat patches are then nearest to it; coherent
    pieces keep the texture that they were cut from. Where the tone is right, they may grow further (`EVEN_TONE_SLACK`).
    """
    complete, corners = sources.atlas.complete, corners.clone()
    own = sources.distance(queries, corners[:, None])[:, 0].clamp(min=floor)
    for ring in sorted(set(depth.tolist()))[1:]:
        rows = (depth == ring).nonzero()[:, 0]
        around = queries.neighbours[rows]
        propagated = corners[around] + queries.steps
        allowed = (propagated >= 0) & (propagated < len(complete)) & (depth[around] < ring)
        allowed &= complete[propagated.clamp(0, len(complete) - 1)]
        propagated = propagated.where(allowed, corners[rows, None])
        d, which = sources.distance(queries.subset(rows), propagated).masked_fill(~allowed, float("inf")).min(1)
        taken = propagated.gather(1, which[:, None])[:, 0]
        freedom = slack[rows]
        if sources.guide is not None and queries.guide is not None and queries.busy is not None:
            off = (queries.guide[rows] - sources.guide.patches(taken, sources.spots)).mean(1).abs().amax(-1)
            even = off < EVEN_TONE * (0.5 * queries.busy[rows, 0]).exp()
            freedom = freedom.where(~even | (depth[rows] < EVEN_TONE_DEPTH), EVEN_TONE_SLACK * freedom)
        continues = d <= (1.0 + freedom) * own[rows]
        corners[rows] = taken.where(continues, corners[rows])
    return corners


def _k_best(d: Tensor, corners: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest distances of each row and their corners, each source once."""
    order = corners.argsort(dim=1, stable=True)
    d, corners = d.gather(1, order), corners.gather(1, order)
    repeated = torch.zeros_like(corners, dtype=torch.bool)
    repeated[:, 1:] = corners[:, 1:] == corners[:, :-1]
    d = d.masked_fill(repeated, float("inf"))
    d, index = d.topk(min(k, d.shape[1]), dim=1, largest=False)
    return d, corners.gather(1, index)


def _has_bf16() -> bool:
    """Return whether bfloat16 products are faster than float32 ones."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
