"""What a model is told besides the noisy state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from editkit.diffusion.control import Control, Given, Residuals
from editkit.diffusion.image_prompts import ImageTokens

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prompt:
    """Encoded text: `embeds` (batch, tokens, width), or (batch, tokens, layers, width); `pooled` (batch, width) where
    the model takes it; `mask` (batch, tokens), 1 for tokens that count, for models that take a mask.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture that a model looks at while it makes another one (`TakesReferences.refer` makes it).

    Args:
        latent: (batch or 1, channels, h, w) in the model's space, of a size of its own.
        picture: (batch or 1, 3, H, W) in [-1, 1], for text encoders that see (`SeesPictures`).
    """

    latent: Tensor
    picture: Tensor


@dataclass(frozen=True, eq=False)
class Embedding:
    """What an image encoder says of a picture, as a model is told it (`TakesEmbeddings.told` makes it).

    Args:
        values: (batch or 1, width).
        unwanted: as `values`, what the branch of guidance without the prompt is told.
    """

    values: Tensor
    unwanted: Tensor

    def repeated(self, count: int) -> Embedding:
        """The same for `count` windows, one after the other in the batch."""
        import torch

        return Embedding(torch.cat([self.values] * count), torch.cat([self.unwanted] * count))


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a model is told besides x_t. Plugins fill it; a model reads what it can take.

    Args:
        prompt, negative: encoded text, wanted and unwanted; None is the model's own "no text".
        known, mask: the picture in the model's space and where to regenerate it (1), (batch, 1, ...).
        lowres: a low-resolution picture in [-1, 1]: enlarged to the model's size, or at the size of its latents.
        noise_level: how much noise `lowres` has, for a model that is told that (`NoisesLowres`).
        references: pictures to look at, the first one first: what an instruction speaks of.
        embedding: what an image encoder says of a picture: what an unCLIP model makes pictures of.
        image_prompts: pictures that attention looks at beside the text (`editkit.diffusion.image_prompts`).
        control: ControlNets, which the model evaluates (`editkit.diffusion.control`); their residuals are summed.
        label: (batch,) class numbers.
        task: the name of the task, for a network that has several.
        guidance: the scale of classifier-free guidance that is wanted here; a network that was distilled from it is
            told it. None: the run's.
    """

    prompt: Prompt | None = None
    negative: Prompt | None = None
    known: Tensor | None = None
    mask: Tensor | None = None
    lowres: Tensor | None = None
    noise_level: int | None = None
    references: tuple[Reference, ...] = ()
    embedding: Embedding | None = None
    image_prompts: tuple[ImageTokens, ...] = ()
    control: tuple[Control, ...] = ()
    label: Tensor | None = None
    task: str | None = None
    guidance: float | None = None

    @property
    def unwanted(self) -> bool:
        """True for the branch of classifier-free guidance that is given the negative prompt."""
        return self.prompt is self.negative

    def plus_reference(self, reference: Reference) -> Conditioning:
        """With one more picture to look at, behind those that are there."""
        return replace(self, references=(*self.references, reference))

    def plus_image_prompt(self, prompt: ImageTokens) -> Conditioning:
        """With one more picture that attention looks at; what several say is added up."""
        return replace(self, image_prompts=(*self.image_prompts, prompt))

    def plus_control(self, control: Control) -> Conditioning:
        """With one more ControlNet: residuals add, so their order does not matter."""
        return replace(self, control=(*self.control, control))


def with_own_words(conds: Sequence[Conditioning]) -> list[Conditioning]:
    """Under what the ControlNets of each branch are asked: the branch's own text, and those that it has."""
    return [replace(cond, control=_acting(cond, len(conds))) for cond in conds]


def with_wanted_words(conds: Sequence[Conditioning]) -> list[Conditioning]:
    """As `with_own_words`, but the unwanted branch's are asked with the text of the first wanted one, so that one call
    serves both: what the makers' pipelines of FLUX.1 and Qwen-Image do.
    """
    wanted = next((cond for cond in conds if not cond.unwanted), conds[0])
    asked = [wanted if cond.unwanted else cond for cond in conds]
    return [replace(one, control=_acting(cond, len(conds))) for one, cond in zip(asked, conds, strict=True)]


def _acting(cond: Conditioning, branches: int) -> tuple[Control, ...]:
    """Its ControlNets, without those that act on wanted branches alone where it is another."""
    return tuple(one for one in cond.control if not (one.wanted_only and branches > 1 and cond.unwanted))


def residuals(conds: Sequence[Conditioning], given: Given) -> Residuals | None:
    """The sum over all ControlNets of `conds`; each is called once, on the branches that have it. None: there are none.

    A sum of two does not depend on their order, to the last bit; of more, to rounding.
    """
    import torch

    controls = {id(control): control for cond in conds for control in cond.control}
    batch, total = len(given.x) // len(conds), None
    for key, control in controls.items():
        on = [
            any(id(own) == key for own in cond.control)
            and not (control.wanted_only and len(conds) > 1 and cond.unwanted)
            for cond in conds
        ]
        if not any(on):
            continue
        rows = torch.tensor(on, device=given.x.device).repeat_interleave(batch)
        made = control(given) if all(on) else control(given.rows(rows)).spread(rows)
        total = made if total is None else total + made
    return total
