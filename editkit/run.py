"""What plugins are given: the inputs of a pass, the run they are bound to, and the step every hook stands at."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from editkit.notify import Notify, silent
from editkit.plan import Move, Plan
from editkit.schedule import Level, Levels, progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.images import Fill
    from editkit.models.base import Model
    from editkit.noise import Noise, Stream
    from editkit.options import Options
    from editkit.raster import Pixels


@dataclass(eq=False)
class Inputs:
    """What a run edits. `picture` is at the size of this pass, `original` at the picture's own.

    Args:
        model: encodes the picture.
        picture: (batch, 3, h, w) in [-1, 1], or None when there is none.
        mask: (batch, 1, h, w), 1 = regenerate, 0 = keep, in between = feathered; None: everything may change.
        original, original_mask: the same, at the picture's own resolution, for `finish`.
        stream: what a stochastic encoder draws from.
        place: cuts and resizes another picture, (1, c, H, W) at the size of the whole edited one, exactly as this pass
            does with the edited one: hints and references cannot be misaligned.
        as_diffusers: bring the mask to the model's space as diffusers' pipelines do.
        whole: the whole edited picture, (H, W, 3) of uint8 or uint16, for detectors of hints; None where there is none.
        source: the same before any plugin opened it: what the user gave to this stage.
        fill: what lies under the mask where the process starts from the picture; None: the picture.
    """

    model: Model
    picture: Tensor | None = None
    mask: Tensor | None = None
    original: Tensor | None = None
    original_mask: Tensor | None = None
    stream: Stream | None = None
    place: Callable[[Tensor], Tensor] = field(default=lambda image: image)
    as_diffusers: bool = False
    whole: Pixels | None = None
    source: Pixels | None = None
    fill: Fill | None = None

    @cached_property
    def known(self) -> Tensor | None:
        """The picture in the model's space, encoded once."""
        return None if self.picture is None else self.model.encode(self.picture, self.stream)

    @cached_property
    def start(self) -> Tensor | None:
        """`known`, with the hole filled as `fill` says: what a process that starts from the picture starts from."""
        if self.fill is None or self.picture is None or self.mask is None or self.stream is None:
            return self.known
        from editkit.smooth import filled

        return self.model.encode(filled(self.picture, self.mask, self.fill, self.stream), self.stream)

    @cached_property
    def region(self) -> Tensor | None:
        """The mask in the model's space, binary: (batch, 1, h', w'), 1 = regenerate.

        Whatever a mask touches is regenerated; diffusers binarises at a half and takes the nearest pixel.
        """
        if self.mask is None:
            return None
        if not self.as_diffusers:
            return self.model.encode_mask(self.mask)
        import torch.nn.functional as F

        size = self.model.shape(*self.mask.shape[-2:])[1:]
        return F.interpolate((self.mask >= 0.5).to(self.mask.dtype), size)

    @cached_property
    def masked(self) -> Tensor | None:
        """The picture with mid-grey where it is to be regenerated, in the model's space: what inpainting models see."""
        if self.picture is None or self.mask is None:
            return None
        return self.model.encode(self.picture * (self.mask < 0.5), self.stream)

    @cached_property
    def _linear(self) -> Callable[[Tensor], Tensor]:
        from editkit.models.linear_decoder import linear_decoder

        size = (1, 3, 512, 512) if self.picture is None else self.picture.shape
        return linear_decoder(self.model, (1, *self.model.shape(*size[-2:])), self.known)

    def sketch(self, x0: Tensor) -> Tensor:
        """Pixels of `x0` by a linear map fitted to the decoder: (batch, 3, h, w), cheap and differentiable."""
        return self._linear(x0)


@dataclass(eq=False)
class Opening:
    """The noise a process starts from: drawn when it is first asked for, the same for everyone who asks.

    It is as large as the state, so it is kept only while somebody keeps it, and drawn again from where its stream was.
    """

    stream: Stream
    shape: tuple[int, ...]
    device: torch.device
    _before: tuple[Tensor, ...] | None = None
    _held: weakref.ref[Tensor] | None = None

    @property
    def noise(self) -> Tensor:
        """N(0, 1), (batch, channels, ...) in the model's space."""
        held = None if self._held is None else self._held()
        if held is None:
            held = self._drawn()
            self._held = weakref.ref(held)
        return held

    def _drawn(self) -> Tensor:
        generators = self.stream.generators
        now = tuple(generator.get_state() for generator in generators)
        if self._before is None:
            self._before = now
            return self.stream.normal(self.shape).to(self.device)
        for generator, state in zip(generators, self._before, strict=True):
            generator.set_state(state)
        again = self.stream.normal(self.shape).to(self.device)
        for generator, state in zip(generators, now, strict=True):
            generator.set_state(state)
        return again


@dataclass(frozen=True, eq=False)
class Run:
    """One pass of the reverse process, as one plugin sees it.

    `stream` is the plugin's own noise. `levels[k]` is the level with index k of the plan. `notify` tells the user
    something once. `opening` is the noise that the process starts from, whoever starts it.
    """

    model: Model
    levels: Levels
    plan: Plan
    inputs: Inputs
    options: Options
    noise: Noise
    stream: Stream
    device: torch.device
    shape: tuple[int, ...]
    opening: Opening
    stage: int = 0
    notify: Notify = field(default=silent)

    def noised(self, x: Tensor, level: Level) -> Tensor:
        """alpha_t * x + sigma_t * eps, eps from this plugin's stream."""
        return level.alpha * x + level.sigma * self.randn_like(x)

    def randn_like(self, x: Tensor) -> Tensor:
        """N(0, 1) of the shape, device and dtype of `x`, from this plugin's stream."""
        return self.stream.normal(x.shape).to(x.device, x.dtype)


@dataclass(frozen=True, eq=False)
class Step:
    """Where the process stands. `t` is the level of `x_t`; in `after` that is the end of the move.

    `index` counts downward moves from 0, of `total`. All of it is shared by the plugins but `run`, which is each
    one's own.
    """

    run: Run
    move: Move
    t: Level
    x_t: Tensor
    index: int
    total: int
    _decoded: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    @property
    def alpha_t(self) -> float:
        return self.t.alpha

    @property
    def sigma_t(self) -> float:
        return self.t.sigma

    @property
    def plan(self) -> Plan:
        return self.run.plan

    @property
    def stage(self) -> int:
        return self.run.stage

    @property
    def progress(self) -> float:
        """0 at the noisiest level to 1 at the clean one, linear in log-SNR, clipped."""
        return progress(self.t, self.run.levels)

    @property
    def is_last(self) -> bool:
        """True in the move that ends at the clean level."""
        return self.move.s == 0

    def noised(self, x: Tensor) -> Tensor:
        """alpha_t * x + sigma_t * eps at this step's level, eps from the plugin's own stream."""
        return self.run.noised(x, self.t)

    def randn_like(self, x: Tensor) -> Tensor:
        """N(0, 1) like `x` from the plugin's own stream."""
        return self.run.randn_like(x)

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels (batch, 3, h, w) in [-1, 1] of `x0`; differentiable; once a step however many plugins ask."""
        for known, image in self._decoded:
            if known is x0:
                return image
        image = self.run.model.decode(x0)
        self._decoded.append((x0, image))
        return image

    def seen_by(self, run: Run) -> Step:
        """This step with another plugin's `run`."""
        return replace(self, run=run)
