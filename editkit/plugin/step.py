"""The objects that plugins receive: the inputs of a pass, the run that they are bound to, and the current step."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from editkit.common.notify import Notify, silent
from editkit.diffusion.plan import Move, Plan
from editkit.diffusion.schedule import Level, Levels, progress
from editkit.errors import ChainError, HookError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.conditioning import Conditioning
    from editkit.diffusion.convention import Convention
    from editkit.diffusion.model import Model
    from editkit.diffusion.noise import Noise, Stream
    from editkit.diffusion.prediction import Prediction
    from editkit.pictures.files.metadata import Metadata
    from editkit.pictures.picture import Fill
    from editkit.pictures.raster import Pixels
    from editkit.plugin.options import Options

P = ParamSpec("P")
T = TypeVar("T")

SAME_ANGLE = 1e-4
"""Levels whose angles atan(sigma / alpha) differ by less, in radians, are equal (rounding of a float32 table)."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a run edits. `picture` is at the size of this pass, `original` at the picture's own size.

    Args:
        model: encodes the picture.
        picture: (batch, 3, h, w) in [-1, 1]; None if there is none.
        mask: (batch, 1, h, w), 1 = regenerate, 0 = keep, in between = feathered; None: everything may change.
        original, original_mask: the same at the picture's own resolution, for `finish`.
        stream: noise stream for stochastic encoders.
        place: crops and resizes another picture, (1, c, H, W) at the size of the whole edited picture, exactly as this
            pass does with the edited picture, so that hints and references are aligned.
        convention: how the mask is converted to the model's space; None: editkit's own way.
        whole: the whole edited picture, (H, W, 3) of uint8 or uint16, for hint detectors; None if there is none.
        source: the stage's input, the same before any plugin's `open` changed it.
        fill: initial content under the mask, if the process starts from the picture; None: the picture.
        file: metadata of the file of `source`; None if there is no picture.
    """

    model: Model
    picture: Tensor | None = None
    mask: Tensor | None = None
    original: Tensor | None = None
    original_mask: Tensor | None = None
    stream: Stream | None = None
    place: Callable[[Tensor], Tensor] = field(default=lambda image: image)
    convention: Convention | None = None
    whole: Pixels | None = None
    source: Pixels | None = None
    fill: Fill | None = None
    file: Metadata | None = None

    @cached_property
    def known(self) -> Tensor | None:
        """The picture in the model's space, (batch, channels, ...), encoded once."""
        return None if self.picture is None else self.model.encode(self.picture, self.stream)

    @cached_property
    def start(self) -> Tensor | None:
        """`known`, with the hole filled as `fill` says: the content from which a process with a picture starts."""
        if self.fill is None or self.picture is None or self.mask is None or self.stream is None:
            return self.known
        from editkit.pictures.filling import fill_hole

        return self.model.encode(fill_hole(self.picture, self.mask, self.fill, self.stream), self.stream)

    @cached_property
    def region(self) -> Tensor | None:
        """The mask in the model's space, binary: (batch, 1, h', w'), 1 = regenerate."""
        if self.mask is None:
            return None
        if self.convention is not None:
            return self.convention.region(self.mask, self.model)
        return self.model.encode_mask(self.mask)

    @cached_property
    def masked(self) -> Tensor | None:
        """The picture with mid-grey under the mask, in the model's space: the input of inpainting models."""
        if self.picture is None or self.mask is None:
            return None
        return self.model.encode(self.picture * (self.mask < 0.5), self.stream)

    def encode_masked(self) -> Tensor | None:
        """Encode `masked` now instead of on first use, if random draws must come in a fixed order."""
        return self.masked

    @cached_property
    def _linear(self) -> Callable[[Tensor], Tensor]:
        from editkit.diffusion.linear_decoder import linear_decoder

        size = (1, 3, 512, 512) if self.picture is None else self.picture.shape
        return linear_decoder(self.model, (1, *self.model.shape(*size[-2:])), self.known)

    def sketch(self, x0: Tensor) -> Tensor:
        """Decode `x0` by a linear map fitted to the decoder: (batch, 3, h, w), cheap and differentiable."""
        return self._linear(x0)


@dataclass(eq=False)
class Opening:
    """The initial noise of a process: drawn on first use, and the same for all users.

    It is as large as the state, so only a weak reference is kept: unused noise is freed, and drawn again if needed.
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
            held = self._draw()
            self._held = weakref.ref(held)
        return held

    def _draw(self) -> Tensor:
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


class Lends(Protocol):
    """Resources that a run borrows until its end (`editkit.models.leasing.Lease`)."""

    def network(self, load: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """Return `load(*args, **given)`, loaded once for all edits. Do not modify it; arguments must be hashable."""
        ...

    def checkpoint(self) -> bool:
        """Enable gradient checkpointing in the model's networks until the end; False if none supports it."""
        ...


@dataclass(frozen=True, eq=False)
class Handed:
    """A noisy state that one stage passes to the next instead of a picture.

    Args:
        x: (batch, channels, ...), float32, in the model's space.
        level: its noise level: x = alpha x0 + sigma eps.
        family: family of the model in whose space it is.
    """

    x: Tensor
    level: Level
    family: str

    def at(self, level: Level) -> Tensor:
        """Convert the state to another table's level with the same sigma / alpha: x' = (alpha' / alpha) x.

        Raises:
            ChainError: the level has another ratio, so the state would have the wrong amount of noise.
        """
        mine, theirs = (math.atan2(v.sigma, v.alpha) for v in (self.level, level))
        if abs(mine - theirs) > SAME_ANGLE:
            raise ChainError(
                f"the stage before ends where sigma / alpha is {math.tan(mine):.4g}, and this one begins at "
                f"{math.tan(theirs):.4g}; give both the same --steps, --spacing and strength"
            )
        if level.alpha == self.level.alpha:
            return self.x
        scale = level.alpha / self.level.alpha if self.level.alpha > 0.0 else level.sigma / self.level.sigma
        return scale * self.x


Ask = Callable[["Tensor", Level, "Conditioning | None", "Run"], "Prediction"]
"""(x, level, conditioning or None, run of the calling plugin) -> prediction; called by `Step.predict`."""


@dataclass(frozen=True, eq=False)
class Run:
    """One pass of the reverse process, as one plugin sees it.

    `model` may be wrapped (windows, a refiner); `editkit.diffusion.capability` looks through wrappers. `lease` lends
    networks to plugins: `run.lease.network(load_classifier, name, run.device)`. `stream` is the plugin's own noise
    stream. `levels[k]` is the level with index k in the plan. `notify` shows the user a message, once. `opening` is the
    initial noise of the process. `convention` says whose conventions random draws and masks follow. `handed` is the
    state from the stage before, if that stage ended above the clean level.
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
    convention: Convention
    lease: Lends
    stage: int = 0
    notify: Notify = field(default=silent)
    handed: Handed | None = None

    def noised(self, x: Tensor, level: Level) -> Tensor:
        """Return alpha_t * x + sigma_t * eps, with eps from this plugin's noise stream."""
        return level.alpha * x + level.sigma * self.randn_like(x)

    def randn_like(self, x: Tensor) -> Tensor:
        """Draw N(0, 1) with the shape, device and dtype of `x`, from this plugin's noise stream."""
        return self.stream.normal(x.shape).to(x.device, x.dtype)


@dataclass(frozen=True, eq=False)
class Step:
    """The current step of the process. `t` is the level of `x_t`; in `after` it is the end of the move.

    `index` counts flow moves from 0 to `total` - 1. All plugins share the step except for `run`, which is each plugin's
    own. `ask` belongs to the engine and serves `predict`. `told` holds, in `combine`, the conditioning of each
    prediction.
    """

    run: Run
    move: Move
    t: Level
    x_t: Tensor
    index: int
    total: int
    ask: Ask | None = field(default=None, repr=False)
    told: Sequence[Conditioning] = field(default=(), repr=False)
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
        """Progress from 0 at the noisiest level to 1 at the clean level, linear in log-SNR, clipped."""
        return progress(self.t, self.run.levels)

    @property
    def is_last(self) -> bool:
        """Whether this move ends at the clean level."""
        return self.move.s == 0

    def noised(self, x: Tensor) -> Tensor:
        """Return alpha_t * x + sigma_t * eps at this step's level, with eps from the plugin's own noise stream."""
        return self.run.noised(x, self.t)

    def randn_like(self, x: Tensor) -> Tensor:
        """Draw N(0, 1) with the shape, device and dtype of `x`, from the plugin's own noise stream."""
        return self.run.randn_like(x)

    def decode(self, x0: Tensor) -> Tensor:
        """Decode `x0` to pixels, (batch, 3, h, w) in [-1, 1]. Differentiable; the result is cached for the step."""
        for known, image in self._decoded:
            if known is x0:
                return image
        image = self.run.model.decode(x0)
        self._decoded.append((x0, image))
        return image

    def predict(self, x: Tensor, level: Level, conditioning: Conditioning | None = None) -> Prediction:
        """Return the guided prediction at any state x, (batch, channels, ...), and level.

        All plugins that act in this move take part. If a plugin calls this while a prediction is being made (in
        `condition`, `energy`, `clean` ...), its own hooks are skipped, since they would recurse. With `conditioning`
        the model is evaluated once with just that, without `condition`, `branches` or `combine`.

        Raises:
            HookError: the step is not part of a run.
        """
        if self.ask is None:
            raise HookError("a step outside of a run cannot make predictions")
        return self.ask(x, level, conditioning, self.run)

    def seen_by(self, run: Run) -> Step:
        """Return this step with another plugin's `run`. Bypasses the slow constructor, as every hook call needs it."""
        seen = object.__new__(Step)
        seen.__dict__.update(self.__dict__, run=run)
        return seen
