"""The interface between engine and models.

A model maps (x_t, t, conditioning) to x0, the estimated clean sample E[x | x_t]. `ModelInfo` is what is known without
weights, and further protocols are optional capabilities of some models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from editkit.diffusion.conditioning import Conditioning, Embedding, Prompt, Reference
from editkit.diffusion.plan import BELOW, Counting, Plan
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine, Level, Schedule
from editkit.errors import ModelError
from editkit.pictures.boxes import Box

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from editkit.diffusion.noise import Stream
    from editkit.pictures.picture import Fill


class PlansPasses(Protocol):
    """Plans the passes by which a model fills `box`. Must be a module-level function, so that it can be pickled."""

    def __call__(
        self,
        box: Box,
        steps: int,
        usual: int,
        hole: np.ndarray | None,
        examples: Sequence[tuple[int, int]],
        fill: Fill | None,
    ) -> tuple[Pass, ...]:
        """Return passes with `steps` levels.

        Args:
            box: the part of the picture to fill.
            steps: number of levels that was requested.
            usual: the model's default number of levels.
            hole: (h, w), the unknown pixels in the box; None if all are unknown.
            examples: (width, height) of further pictures to learn from.
            fill: the initial content of the hole; None: the model's own.
        """
        ...


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before its weights are loaded; `editkit plan` needs no more.

    Args:
        name: the value of `--model`.
        family: kind of network, for messages.
        takes: names of the conditions that it takes.
        sampler, steps: defaults.
        window: training resolution, a side in pixels; None: any size.
        least: smallest side at which it still works well, in pixels; None: `window`.
        multiple: sides must be multiples of this many pixels.
        own_picture: its prior is the edited picture itself (`Model.attach` is needed).
        guidance: default guidance scale, or the default scale input of a guidance-distilled network.
        distilled: it has no guidance: one call suffices, and a negative prompt has no effect.
        shifts: its levels have a shift (flow matching), which `--shift` sets.
        references: largest number of reference pictures, if it takes `references`.
        rounds_up: a strength between two levels starts from the upper one, as in diffusers' flow-matching pipelines.
        passes: plans coarse-to-fine passes over a box; None: as needed for `window` (`editkit.editing.passes`).
        loudest: greatest sigma / alpha at which it works: it must begin from a picture; None: it works at all levels.
        transformer: file with the denoiser's weights (`--transformer`); None: they are with the rest.
    """

    name: str
    family: str
    takes: frozenset[str] = field(default_factory=frozenset)
    sampler: str = "ddim"
    steps: int = 50
    window: int | None = None
    least: int | None = None
    multiple: int = 1
    own_picture: bool = False
    guidance: float = 7.5
    distilled: bool = False
    shifts: bool = False
    references: int = 0
    rounds_up: bool = False
    passes: PlansPasses | None = None
    loudest: float | None = None
    transformer: str | None = None


class Model(Protocol):
    """A denoiser with its schedule and its space.

    `data_std` is the standard deviation of clean data in the model's space. `clip` bounds the x0 estimate (None: no
    bound) and keeps the network's eps, as diffusers' `clip_sample` does.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def schedule(self) -> Schedule: ...

    @property
    def data_std(self) -> float: ...

    @property
    def clip(self) -> float | None: ...

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        """Predict at x_t, (batch, channels, ...), once for each conditioning; in one batched call if possible."""
        ...

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of a state, (channels, ...), for a picture of `height` x `width` pixels."""
        ...

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """Encode pixels (batch, 3, h, w) in [-1, 1] to the model's space; `stream` is for stochastic encoders."""
        ...

    def encode_mask(self, mask: Tensor) -> Tensor:
        """Convert a mask (batch, 1, h, w) to the model's space: (batch, 1, h', w'), binary, 1 = regenerate."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Decode to pixels (batch, 3, h, w), in about [-1, 1]; differentiable."""
        ...

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Model:
        """Return the model for one picture (`patches` takes its patches from it); most models return themselves."""
        ...


@runtime_checkable
class ReadsText(Protocol):
    """A model that takes `prompt`."""

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Encode `text` with batch size 1. Returns the prompt, and the rest of the text that did not fit."""
        ...


@runtime_checkable
class TakesReferences(Protocol):
    """A model that takes `references`: pictures that it sees while it makes another one."""

    def refer(self, picture: Tensor) -> Reference:
        """Prepare `picture`, (batch, 3, h, w) in [-1, 1], as a reference.

        A picture is encoded at its own size if its sides are multiples of `info.multiple` and it is not too large for
        the model. Nothing is cropped, and no random numbers are drawn.
        """
        ...


@runtime_checkable
class TakesEmbeddings(Protocol):
    """A model that takes `embedding`: it generates a picture from an image embedding (unCLIP)."""

    @property
    def embedding_width(self) -> int:
        """Width of the image embedding."""
        ...

    @property
    def denoiser(self) -> Any:
        """The network that is evaluated at every step."""
        ...

    def prepare_embedding(
        self, embedding: Tensor, none: Tensor, noise_level: int, draw: Callable[[], Tensor]
    ) -> Embedding:
        """Prepare an image embedding for the model.

        Args:
            embedding: (n, width).
            none: embedding of an empty picture, (1, width), for the unconditional branch.
            noise_level: noise to add to the embedding.
            draw: returns that noise, N(0, 1) of the embedding's shape, always the same.
        """
        ...


@runtime_checkable
class SeesPictures(Protocol):
    """A model with a multimodal text encoder: the embedding of a text depends on the reference pictures."""

    def encode_seeing(self, text: str | None, references: Sequence[Reference]) -> tuple[Prompt, str]:
        """Do the same as `ReadsText.encode_text`, given `references`; None: the model's own "no text"."""
        ...


@runtime_checkable
class FoldsGuidance(Protocol):
    """A model with its own formula for classifier-free guidance."""

    def fold(self, without: Tensor, wanted: Tensor, scale: float) -> Tensor:
        """Combine the network's outputs without and with the prompt, (batch, channels, ...) each.

        At scale 1 the result is `wanted`.
        """
        ...


class KeepsSteps(Protocol):
    """A step cache: the number of network calls, how many of them it saved, and whether it is enabled."""

    calls: int
    saved: int
    active: bool


@runtime_checkable
class CachesSteps(Protocol):
    """A model that takes `step cache`: if the output of its network's first block has hardly changed, the other blocks
    can be taken from a cache.
    """

    def cache_steps(self, threshold: float) -> KeepsSteps:
        """Cache steps from now on until the end of the lease.

        A step uses the cache if the first block's residual changed by at most the fraction `threshold`. The cache is
        emptied; counters keep counting.
        """
        ...


@runtime_checkable
class HoldsStates(Protocol):
    """A model that declares the memory of a backward pass: `held` numbers of its dtype for each value of x_t."""

    held: int


@runtime_checkable
class Notifies(Protocol):
    """A model with messages for the user: `chosen`, from loading, and through `notify` during a run."""

    chosen: Sequence[str]
    notify: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Example:
    """A further picture to learn from.

    Args:
        image: (3, h, w), at the scale of a pass.
        lowres: the same as seen by the coarser pass.
        unseen: (h, w), bool, where it is transparent and must not be learned.
    """

    image: Tensor
    lowres: Tensor | None = None
    unseen: Tensor | None = None


@runtime_checkable
class TakesExamples(Protocol):
    """A model that takes `examples`: it learns from further pictures, apart from the one it is attached to."""

    def given(self, examples: Sequence[Example], fill: Fill | None, barred: Tensor | None = None) -> Model:
        """Return the model with `examples`, to be attached.

        `fill` is the initial content of the hole. `barred`, (1, 1, h, w), is > 0 where it must not learn from the
        picture.
        """
        ...

    def afford(self, height: int, width: int, examples: Sequence[tuple[int, int]]) -> None:
        """Check the memory for a pass of this size with examples of these (width, height).

        Raises:
            ModelError: memory is too small. The message says what is needed and what is free.
        """
        ...


@runtime_checkable
class Enlarges(Protocol):
    """A model whose prior is the edited picture, and which can learn from the original of an enlarged picture."""

    def enlarging(self, small: Tensor, scale: float) -> Model:
        """Return the model for a picture `scale` times as large as `small`, (1, 3, h, w), with the same content."""
        ...


@runtime_checkable
class ReadsWeights(Protocol):
    """A model that takes `prompt` with weights for single words."""

    def encode_weighted(self, text: str) -> Prompt:
        """Encode a text of any length, in which `(words)1.3`, `word++` and `word-` are weights."""
        ...


@runtime_checkable
class NoisesLowres(Protocol):
    """A model that takes a noised `lowres` and its `noise_level`."""

    noise_levels: int

    def noised(self, lowres: Tensor, noise_level: int, z: Tensor) -> Tensor:
        """Add the noise `z` to `lowres`, at the size of the state; `noise_level` is 0 to noise_levels - 1."""
        ...


@runtime_checkable
class Sharpens(Protocol):
    """A model that can sharpen the enlarged small picture, by the result of an earlier stage."""

    def sharpened(self, lowres: Tensor) -> Tensor:
        """Return the `lowres` to pass to the model, at the size of the state."""
        ...


class PixelSpace:
    """The parts of `Model` that all pixel models share."""

    clip: float | None = 1.0
    data_std: float = 0.5

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return (3, height, width)

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        return image

    def encode_mask(self, mask: Tensor) -> Tensor:
        return (mask > 0).to(mask.dtype)

    def decode(self, x0: Tensor) -> Tensor:
        return x0


@dataclass(frozen=True, eq=False)
class NoModel(PixelSpace):
    """Placeholder for the model in a stage that denoises nothing; has no weights."""

    info: ModelInfo
    schedule: Schedule = field(default_factory=Cosine)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        raise ModelError("this stage denoises nothing, so its model was not loaded")

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> NoModel:
        return self


@dataclass(frozen=True)
class Pass:
    """One reverse process over `box` of the picture, resized to `height` x `width` pixels.

    Args:
        steps: number of noise levels.
        strength: fraction of the levels to run; 1 starts from noise, less from the coarser pass over this box.
        repeats: number of times each move is run (`Plan.travel(1, repeats)`), unless a plugin resamples itself.
        hold: while sigma_t is above this, keep the low frequencies of the coarser pass.
        window: side of the windows in which it is computed, in pixels; None: all at once.
    """

    box: Box
    height: int
    width: int
    steps: int
    strength: float = 1.0
    repeats: int = 1
    hold: float = 1.0
    window: int | None = None

    def plan(self, counting: Counting = BELOW) -> Plan:
        """Return the pass's own plan, before plugins change it."""
        return Plan.uniform(self.steps, counting).start_at(self.strength)
