"""Overlapping windows: run a model of fixed size on a state of any size, within one reverse process.

At every step the model sees windows of its own size, and their estimates of x0 are blended with weights that sum to one
(MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113; on x0 instead of the samples). All windows share one state and
one noise, so there are no seams between them. If only a part is regenerated, only the windows that touch it are
computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.control import Control, cut_like
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.noise import Stream
from editkit.diffusion.prediction import Prediction, PredictionType, output_of
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError


def window_starts(length: int, window: int, overlap: int) -> tuple[int, ...]:
    """Return the starts of evenly spaced windows that cover [0, length) and overlap by at least `overlap`.

    There is a single window at 0 if `length` is not larger than `window`.
    """
    if length <= window:
        return (0,)
    count = math.ceil((length - overlap) / (window - overlap))
    return tuple(round(k * (length - window) / (count - 1)) for k in range(count))


def window_weights(begins: Sequence[int], window: int, length: int) -> Tensor:
    """Return the weight of each window at each of its positions, (windows, window); they sum to one everywhere.

    The weight is a squared tent over each window, divided by the sum of all, so that neighbours cross-fade. At the
    border of a window it is 1 / (1 + overlap^2). Without the square it would be 1 / (1 + overlap), a visible step.
    """
    size = min(window, length)
    ramp = torch.arange(size, dtype=torch.float64) + 1.0
    tent = torch.minimum(ramp, ramp.flip(0)).square()
    total = torch.zeros(length, dtype=torch.float64)
    for begin in begins:
        total[begin : begin + size] += tent
    return torch.stack([tent / total[begin : begin + size] for begin in begins]).float()


@dataclass(frozen=True)
class _Window:
    """A window of a state: its rows and columns, and their weights."""

    rows: slice
    columns: slice
    down: Tensor
    along: Tensor

    def weight(self) -> Tensor:
        """Return the weights, (height, width)."""
        return self.down[:, None] * self.along[None, :]


@dataclass(frozen=True, eq=False)
class Windowed:
    """`model` on states of any size, in windows of `window` x `window` (in the model's own space).

    Args:
        model: the model that sees the windows.
        window: side of a window.
        overlap: least overlap of neighbouring windows.
        batch: windows in one call of the model, for a single state; for several states, one window of each.
        region: (1 or b, 1, h, w), 1 = regenerate; windows that do not touch it are not computed. None: all are.
        picture: pixels (b, 3, H, W), the estimate of x0 where no window is computed.

    Raises:
        ModelError: the overlap is not smaller than the window.
    """

    model: Model
    window: int
    overlap: int = 16
    batch: int = 8
    region: Tensor | None = None
    picture: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            raise ModelError(
                f"windows of {self.window} cannot overlap by {self.overlap}; it must be 0 to {self.window - 1}"
            )

    @property
    def wrapped(self) -> Model:
        return self.model

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    @property
    def schedule(self) -> Schedule:
        return self.model.schedule

    @property
    def data_std(self) -> float:
        return self.model.data_std

    @property
    def clip(self) -> float | None:
        return self.model.clip

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.model.shape(height, width)

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        return self.model.encode(image, stream)

    def encode_mask(self, mask: Tensor) -> Tensor:
        return self.model.encode_mask(mask)

    def decode(self, x0: Tensor) -> Tensor:
        return self.model.decode(x0)

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Windowed:
        """Compute only windows that touch `mask`; the rest of the estimate is `picture`, encoded."""
        model = self.model.attach(picture, mask)
        if picture is None or mask is None:
            return replace(self, model=model)
        return replace(self, model=model, region=model.encode_mask(mask), picture=picture)

    @cached_property
    def known(self) -> Tensor | None:
        """The picture in the model's space; encoded only if some window is not computed."""
        return None if self.picture is None else self.model.encode(self.picture)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        """Return the blended predictions at x_t, (b, c, h, w): x0 = sum_k w_k x0_k, and likewise eps."""
        windows = self._windows(*x_t.shape[-2:])
        sums = [_Sum.of(x_t) for _ in conds]
        for group in _chunks(windows, self.batch if len(x_t) == 1 else 1):
            cut = torch.cat([x_t[..., w.rows, w.columns] for w in group])
            steering = {id(control): control for cond in conds for control in cond.control}
            controls = {key: control.cut(window_slices(group), x_t.shape[-2:]) for key, control in steering.items()}
            given = [_crop_conditioning(cond, group, x_t.shape[-2:], controls) for cond in conds]
            for total, prediction in zip(sums, self.model(cut, level, given), strict=True):
                total.add(prediction, group)
        rest = self._known_weight(windows, x_t)
        return tuple(self._blend(total, rest, x_t, level, folded=len(conds) > 1) for total in sums)

    def _windows(self, height: int, width: int) -> list[_Window]:
        """Return the windows of a state of `height` x `width` that touch the region."""
        axes = []
        for length in (height, width):
            begins = window_starts(length, self.window, self.overlap)
            size = min(self.window, length)
            shares = window_weights(begins, self.window, length)
            axes.append([(slice(b, b + size), share) for b, share in zip(begins, shares, strict=True)])
        found = [_Window(rows, columns, down, along) for (rows, down), (columns, along) in itertools.product(*axes)]
        if self.region is None:
            return found
        touching = [w for w in found if bool((self.region[..., w.rows, w.columns] > 0).any())]
        return touching or found[:1]

    def _known_weight(self, windows: list[_Window], x_t: Tensor) -> Tensor | None:
        """Return the weight of the known picture at every position, (h, w); None if it is 0 everywhere."""
        if self.picture is None:
            return None
        rest = torch.ones(x_t.shape[-2:], device=x_t.device)
        for w in windows:
            rest[w.rows, w.columns] -= w.weight().to(x_t.device)
        return rest.clamp_(min=0.0) if bool((rest > 1e-3).any()) else None

    def _blend(self, total: _Sum, rest: Tensor | None, x_t: Tensor, level: Level, folded: bool) -> Prediction:
        """Complete a prediction with the known picture, where no window was computed.

        The corresponding network output is computed only if several predictions will be combined (`folded`).
        """
        x0, eps = total.x0, total.eps
        if rest is not None and self.known is not None:
            x0 = x0 + rest * self.known
            eps = eps + rest * (x_t - level.alpha * self.known) / max(level.sigma, 1e-8)
        output = output_of(x0, eps, level, total.kind) if folded and total.kind is not None else None
        return Prediction(x0, eps, total.variance, output, total.kind)


@dataclass(eq=False)
class _Sum:
    """The running sum of w_k p_k over the windows' predictions, so that no window must be stored."""

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None
    kind: PredictionType | None = None

    @classmethod
    def of(cls, x_t: Tensor) -> _Sum:
        return cls(torch.zeros_like(x_t, dtype=torch.float32), torch.zeros_like(x_t, dtype=torch.float32))

    def add(self, prediction: Prediction, group: list[_Window]) -> None:
        """Add the predictions of `group`, whose windows are concatenated in the batch."""
        self.kind = prediction.kind
        if prediction.variance is not None and self.variance is None:
            self.variance = torch.zeros_like(self.x0)
        sums = ((self.x0, prediction.x0), (self.eps, prediction.eps), (self.variance, prediction.variance))
        for total, part in sums:
            if total is None or part is None:
                continue
            for w, piece in zip(group, torch.split(part, len(total)), strict=True):
                total[..., w.rows, w.columns] += w.weight().to(total.device) * piece


def _chunks(windows: list[_Window], size: int) -> list[list[_Window]]:
    return [windows[k : k + size] for k in range(0, len(windows), size)]


def window_slices(group: list[_Window]) -> list[tuple[slice, slice]]:
    """Return (rows, columns) of each window."""
    return [(w.rows, w.columns) for w in group]


def _crop_conditioning(
    cond: Conditioning, group: list[_Window], size: Sequence[int], controls: Mapping[int, Control]
) -> Conditioning:
    """Return the conditioning for the windows of `group`: pictures are cropped like the state, the rest is repeated.

    `controls`: id of a ControlNet -> the ControlNet cropped for these windows.
    """

    def spatial(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return cut_like(value, window_slices(group), size)

    def repeated(value: Tensor | None) -> Tensor | None:
        return None if value is None else torch.cat([value] * len(group))

    def text(value: Prompt | None) -> Prompt | None:
        if value is None:
            return None
        embeds = torch.cat([value.embeds] * len(group))
        return replace(value, embeds=embeds, pooled=repeated(value.pooled), mask=repeated(value.mask))

    def beside(reference: Reference) -> Reference:
        """Crop a picture of the state's size like the state; every window sees all of other pictures."""
        latent = reference.latent
        cut = latent.shape[-2:] == tuple(size)
        return replace(
            reference, latent=cut_like(latent, window_slices(group), size) if cut else torch.cat([latent] * len(group))
        )

    return replace(
        cond,
        prompt=text(cond.prompt),
        negative=text(cond.negative),
        known=spatial(cond.known),
        mask=spatial(cond.mask),
        lowres=spatial(cond.lowres),
        label=repeated(cond.label),
        references=tuple(beside(reference) for reference in cond.references),
        embedding=None if cond.embedding is None else cond.embedding.repeated(len(group)),
        image_prompts=tuple(one.cut(window_slices(group), size) for one in cond.image_prompts),
        control=tuple(controls[id(control)] for control in cond.control),
    )
