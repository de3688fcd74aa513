"""What the engine asks of a model: a map (x_t, t, conditioning) -> x0, the estimated clean sample
E[x | x_t]; what is known of it without weights; and what some models can do besides.
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
    """The passes over `box` by which a model invents it: a function of a module's own, so that it can be pickled."""

    def __call__(
        self, box: Box, steps: int, usual: int, hole: np.ndarray | None, examples: Sequence[tuple[int, int]]
    ) -> tuple[Pass, ...]:
        """Passes in `steps` levels, where `usual` are the model's own; `hole` (h, w): what is unknown of the box;
        `examples`: (width, height) of other pictures that are learned from.
        """
        ...


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before its weights are loaded; `editkit plan` needs no more.

    Args:
        name: what `--model` was given.
        family: the kind of network, for messages.
        takes: the named conditions it can take.
        sampler, steps: defaults.
        window: the side it was trained at, in pixels; None: any size.
        least: the smallest side at which it still works well, in pixels; None: its window.
        multiple: sides must be multiples of this many pixels.
        own_picture: its prior is the edited picture itself (`Model.attach` is needed).
        guidance: default scale of classifier-free guidance, or what a network distilled from it is told.
        distilled: it has no guidance: one call gives what others need two for, and a negative prompt has no effect.
        shifts: its levels have a shift (flow matching), which `--shift` sets.
        references: how many pictures it looks at, where it takes `references`.
        rounds_up: a strength between two levels starts from the upper one, as diffusers' pipelines for flow matching.
        passes: how it invents a box coarse to fine; None: as its window asks (`editkit.editing.passes`).
        transformer: the file that has the denoiser's weights (`--transformer`); None: they lie with the rest.
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
    transformer: str | None = None


class Model(Protocol):
    """A denoiser with its schedule and its space.

    `data_std` is the standard deviation of clean data in the model's space; `clip` bounds the x0 estimate (None: not
    bounded), keeping the network's eps, as diffusers does with `clip_sample`.
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
        """One prediction for each conditioning, in one batched call where the model can."""
        ...

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """(channels, ...) in the model's space of a picture of `height` x `width` pixels."""
        ...

    def encode(self, image: Tensor, stream: Stream | None = None) -> Tensor:
        """Pixels (batch, 3, h, w) in [-1, 1] to the model's space."""
        ...

    def encode_mask(self, mask: Tensor) -> Tensor:
        """A mask (batch, 1, h, w) to the model's space, binary, 1 = regenerate."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """The model's space to pixels (batch, 3, h, w), about [-1, 1]; differentiable."""
        ...

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Model:
        """This model for one picture (`patches` takes its patches from it); most models return themselves."""
        ...


@runtime_checkable
class ReadsText(Protocol):
    """A model that takes `prompt`."""

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """(`text` for `Conditioning.prompt`, batch 1; what of it did not fit and was left out)."""
        ...


@runtime_checkable
class TakesReferences(Protocol):
    """A model that takes `references`: pictures that it looks at while it makes another one."""

    def refer(self, picture: Tensor) -> Reference:
        """`picture` (batch, 3, h, w) in [-1, 1] as the model looks at it. One whose sides are multiples of
        `info.multiple` and that is no larger than the model likes is encoded as it is; nothing is drawn for it, and
        nothing is cut off.
        """
        ...


@runtime_checkable
class TakesEmbeddings(Protocol):
    """A model that takes `embedding`: it makes a picture of what an image encoder says of one (unCLIP)."""

    @property
    def embedding_width(self) -> int:
        """Of what the image encoder says."""
        ...

    @property
    def denoiser(self) -> Any:
        """The network that is called at every step."""
        ...

    def told(self, embedding: Tensor, none: Tensor, noise_level: int, draw: Callable[[], Tensor]) -> Embedding:
        """An image encoder's `embedding` (n, width) as the model is told it, noised as far as `noise_level` says by
        what `draw` gives, N(0, 1), always the same; `none` is what the encoder says of an empty picture.
        """
        ...


@runtime_checkable
class SeesPictures(Protocol):
    """A model whose text encoder sees pictures: the same words are other embeddings beside another picture."""

    def encode_seeing(self, text: str | None, references: Sequence[Reference]) -> tuple[Prompt, str]:
        """As `ReadsText.encode_text`, beside `references`; None: the model's own "no text"."""
        ...


@runtime_checkable
class FoldsGuidance(Protocol):
    """A model whose guidance has a form of its own."""

    def fold(self, without: Tensor, wanted: Tensor, scale: float) -> Tensor:
        """What the network would have put out, guided: of its outputs (batch, channels, ...) without and with the
        prompt. At a `scale` of 1 it is `wanted`.
        """
        ...


class KeepsSteps(Protocol):
    """What saves calls of a network: how many there were, how many of them were saved, and whether it may do so now."""

    calls: int
    saved: int
    active: bool


@runtime_checkable
class CachesSteps(Protocol):
    """A model that takes `step cache`: where its network's first block says much the same as before, the rest of it may
    be taken from before.
    """

    def cache_steps(self, threshold: float) -> KeepsSteps:
        """Save calls from now on, until the end of the lease, where what the first block adds changed by at most
        `threshold` of it. What was remembered is forgotten; calls are counted on.
        """
        ...


@runtime_checkable
class HoldsStates(Protocol):
    """A model that says what a backward pass through it holds: numbers of its dtype for each value of x_t."""

    held: int


@runtime_checkable
class Notifies(Protocol):
    """A model that has something to tell the user: what was chosen when it was loaded, and what happens in a run."""

    chosen: Sequence[str]
    notify: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Example:
    """Another picture to learn from: `image` (3, h, w) at the scale of a pass, `lowres` as the coarser one shows it.
    `unseen` (h, w), bool: where it is transparent and nothing is to be learned.
    """

    image: Tensor
    lowres: Tensor | None = None
    unseen: Tensor | None = None


@runtime_checkable
class TakesExamples(Protocol):
    """A model that takes `examples`: it learns from other pictures beside the one it is attached to."""

    def given(self, examples: Sequence[Example], fill: Fill | None, barred: Tensor | None = None) -> Model:
        """This model, to be attached with these, with what lies in the hole to begin with, and with what of the picture
        it is not to learn from: (1, 1, h, w), > 0.
        """
        ...

    def afford(self, height: int, width: int, examples: Sequence[tuple[int, int]]) -> None:
        """Refuse a pass of this size with examples of these (width, height) where memory is too small for it.

        Raises:
            ModelError: with what is needed and what there is.
        """
        ...


@runtime_checkable
class Enlarges(Protocol):
    """A model whose prior is the edited picture, and which learns from the small one where that was enlarged."""

    def enlarging(self, small: Tensor, scale: float) -> Model:
        """This model for a picture `scale` times as large as `small` (1, 3, h, w), and of the same content."""
        ...


@runtime_checkable
class ReadsWeights(Protocol):
    """A model that takes `prompt` with weights for single words."""

    def encode_weighted(self, text: str) -> Prompt:
        """As `ReadsText.encode_text`, of any length; `(words)1.3`, `word++` and `word-` are weights."""
        ...


@runtime_checkable
class NoisesLowres(Protocol):
    """A model that takes `lowres` with noise in it, and `noise_level` beside it."""

    noise_levels: int

    def noised(self, lowres: Tensor, noise_level: int, z: Tensor) -> Tensor:
        """`lowres` at the size of the state, with the noise `z` of `noise_level` (0 to noise_levels - 1) added."""
        ...


@runtime_checkable
class Sharpens(Protocol):
    """A model that knows more of the small picture than its enlargement shows: what an earlier stage made of it."""

    def sharpened(self, lowres: Tensor) -> Tensor:
        """`lowres` at the size of the state, as the model is to be told it."""
        ...


class PixelSpace:
    """The parts of `Model` that are the same for every model whose space is pixels."""

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
    """Takes the place of a model in a stage that denoises nothing: no weights."""

    info: ModelInfo
    schedule: Schedule = field(default_factory=Cosine)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        raise ModelError("this stage denoises nothing, and its model was not loaded")

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> NoModel:
        return self


@dataclass(frozen=True)
class Pass:
    """One reverse process over `box` of the picture, brought to `height` x `width` pixels.

    Args:
        steps: noise levels of its ladder.
        strength: the fraction of the ladder it walks; 1 starts from noise, less from the coarser pass over this box.
        repeats: walk every move this often (`Plan.travel(1, repeats)`), unless a plugin travels itself.
        hold: while sigma_t is above this, keep the low frequencies of the coarser pass.
        window: the side in pixels of the windows it is computed by; None: all at once.
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
        """The pass's own trajectory, before plugins change it."""
        return Plan.uniform(self.steps, counting).start_at(self.strength)
