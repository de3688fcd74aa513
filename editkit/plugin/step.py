"""What plugins are given: the inputs of a pass, the run they are bound to, and the step every hook stands at."""

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
"""Radians: levels whose angles atan(sigma / alpha) differ by less are the same (a float32 table's rounding)."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a run edits. `picture` is at the size of this pass, `original` at the picture's own.

    Args:
        model: encodes the picture.
        picture: (batch, 3, h, w) in [-1, 1], or None when there is none.
        mask: (batch, 1, h, w), 1 = regenerate, 0 = keep, in between = feathered; None: everything may change.
        original, original_mask: the same, at the picture's own resolution, for `finish`.
        stream: the noise that a stochastic encoder draws from.
        place: cuts and resizes another picture, (1, c, H, W) at the size of the whole edited one, exactly as this pass
            does with the edited one: hints and references cannot be misaligned.
        convention: how the mask is brought to the model's space; None: editkit's own way.
        whole: the whole edited picture, (H, W, 3) of uint8 or uint16, for detectors of hints; None where there is none.
        source: the same before any plugin's `open` changed it: what this stage was given.
        fill: what lies under the mask where the process starts from the picture; None: the picture.
        file: the metadata of the file of `source`; None where there is no picture.
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
        """The picture in the model's space, encoded once."""
        return None if self.picture is None else self.model.encode(self.picture, self.stream)

    @cached_property
    def start(self) -> Tensor | None:
        """`known`, with the hole filled as `fill` says: what a process that starts from the picture starts from."""
        if self.fill is None or self.picture is None or self.mask is None or self.stream is None:
            return self.known
        from editkit.pictures.filling import filled

        return self.model.encode(filled(self.picture, self.mask, self.fill, self.stream), self.stream)

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
        """The picture with mid-grey where it is to be regenerated, in the model's space: what inpainting models see."""
        if self.picture is None or self.mask is None:
            return None
        return self.model.encode(self.picture * (self.mask < 0.5), self.stream)

    def encode_masked(self) -> Tensor | None:
        """`masked`, encoded now rather than when somebody first asks: where draws come in a fixed order."""
        return self.masked

    @cached_property
    def _linear(self) -> Callable[[Tensor], Tensor]:
        from editkit.diffusion.linear_decoder import linear_decoder

        size = (1, 3, 512, 512) if self.picture is None else self.picture.shape
        return linear_decoder(self.model, (1, *self.model.shape(*size[-2:])), self.known)

    def sketch(self, x0: Tensor) -> Tensor:
        """Pixels of `x0` by a linear map fitted to the decoder: (batch, 3, h, w), cheap and differentiable."""
        return self._linear(x0)


@dataclass(eq=False)
class Opening:
    """The noise a process starts from: drawn when it is first asked for, the same for everyone who asks.

    It is as large as the state, so it is held weakly: when nobody uses it any more it is freed, and drawn again if
    needed.
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


class Lends(Protocol):
    """What a run borrows until its end (`editkit.models.leasing.Lease`)."""

    def network(self, load: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
        """What `load(*args, **given)` gives, loaded once for all edits; nobody may change it. All is hashable."""
        ...

    def checkpoint(self) -> bool:
        """Gradient checkpointing in every network of the model, until the end; False: none has layers for it."""
        ...


@dataclass(frozen=True, eq=False)
class Handed:
    """A noisy state that one stage hands to the next instead of a picture.

    Args:
        x: (batch, channels, ...), float32, in the model's space.
        level: where it stands: x = alpha x0 + sigma eps.
        family: the family of the model whose space it is in.
    """

    x: Tensor
    level: Level
    family: str

    def at(self, level: Level) -> Tensor:
        """The same state on another table, at the level with the same sigma / alpha: x' = (alpha' / alpha) x.

        Raises:
            ChainError: that level has another ratio: what follows would take noise for picture, or the other way round.
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
"""(x, level, conditioning or None, the asking plugin's run) -> a prediction: what `Step.predict` calls."""


@dataclass(frozen=True, eq=False)
class Run:
    """One pass of the reverse process, as one plugin sees it.

    `model` may lie within others (windows, a refiner): `editkit.diffusion.capability` finds what one of them can.
    `lease` lends a plugin's own networks, as `run.lease.network(load_classifier, name, run.device)`. `stream` is the
    plugin's own noise. `levels[k]` is the level with index k of the plan. `notify` tells the user something once.
    `opening` is the noise that the process starts from, whoever starts it. `convention` says whose conventions random
    draws and masks follow. `handed` is the state that the stage before left, where that ended above the clean level.
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
        """alpha_t * x + sigma_t * eps, eps from this plugin's stream."""
        return level.alpha * x + level.sigma * self.randn_like(x)

    def randn_like(self, x: Tensor) -> Tensor:
        """N(0, 1) of the shape, device and dtype of `x`, from this plugin's stream."""
        return self.stream.normal(x.shape).to(x.device, x.dtype)


@dataclass(frozen=True, eq=False)
class Step:
    """Where the process stands. `t` is the level of `x_t`; in `after` that is the end of the move.

    `index` counts flow moves from 0, of `total`. All of it is shared by the plugins but `run`, which is each one's own.
    `ask` is the engine's: `predict` goes through it. `told` is, in `combine`, what each prediction was made for.
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

    def predict(self, x: Tensor, level: Level, conditioning: Conditioning | None = None) -> Prediction:
        """The guided prediction at any state x (b, c, ...) and level: another view, another level, another condition.

        All plugins that act in this move have their say, but for the one that asks while a prediction is being made
        (in `condition`, `energy`, `clean` ...): its own hooks are left out then, or it would ask for ever. With
        `conditioning` the model is told just that, once: no `condition`, `branches` or `combine`.

        Raises:
            HookError: the step stands outside of a run.
        """
        if self.ask is None:
            raise HookError("a step outside of a run has nobody to ask for a prediction")
        return self.ask(x, level, conditioning, self.run)

    def seen_by(self, run: Run) -> Step:
        """This step with another plugin's `run`; made for every hook, so without the slower constructor."""
        seen = object.__new__(Step)
        seen.__dict__.update(self.__dict__, run=run)
        return seen
