"""The conditioning of a model: all inputs apart from the noisy state."""

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
    """Encoded text.

    Args:
        embeds: (batch, tokens, width), or (batch, tokens, layers, width).
        pooled: (batch, width), for models that take it.
        mask: (batch, tokens), 1 for tokens that count, for models that take it.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference picture, which a model sees while it makes another one (created by `TakesReferences.refer`).

    Args:
        latent: (batch or 1, channels, h, w) in the model's space; its size may differ from the state's.
        picture: (batch or 1, 3, H, W) in [-1, 1], for multimodal text encoders (`SeesPictures`).
    """

    latent: Tensor
    picture: Tensor


@dataclass(frozen=True, eq=False)
class Embedding:
    """An image embedding, prepared for a model (created by `TakesEmbeddings.prepare_embedding`).

    Args:
        values: (batch or 1, width).
        unwanted: the same for the unconditional branch of guidance.
    """

    values: Tensor
    unwanted: Tensor

    def repeated(self, count: int) -> Embedding:
        """Repeat it for `count` windows, one after the other in the batch."""
        import torch

        return Embedding(torch.cat([self.values] * count), torch.cat([self.unwanted] * count))


@dataclass(frozen=True, eq=False)
class Conditioning:
    """The inputs of a model in addition to x_t. Plugins fill it, and a model reads the fields that it supports.

    Args:
        prompt, negative: encoded prompt and negative prompt; None is the model's own "no text".
        known, mask: the picture in the model's space, and where to regenerate it (1), (batch, 1, ...).
        lowres: a low-resolution picture in [-1, 1]: enlarged to the model's size, or at the size of its latents.
        noise_level: noise level of `lowres`, for models that take it (`NoisesLowres`).
        references: reference pictures to which an instruction refers, in order.
        embedding: image embedding from which an unCLIP model generates.
        image_prompts: pictures that attention sees in addition to the text (`editkit.diffusion.image_prompts`).
        control: ControlNets, which the model evaluates (`editkit.diffusion.control`); their residuals are summed.
        label: (batch,) class numbers.
        task: name of the task, for a network with several tasks.
        guidance: scale of classifier-free guidance for this prediction; an input of guidance-distilled networks.
            None: the run's scale.
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
        """Whether this is the unconditional branch of guidance, with the negative prompt."""
        return self.prompt is self.negative

    def plus_reference(self, reference: Reference) -> Conditioning:
        """Append a reference picture."""
        return replace(self, references=(*self.references, reference))

    def plus_image_prompt(self, prompt: ImageTokens) -> Conditioning:
        """Append an image prompt; the contributions of several add up."""
        return replace(self, image_prompts=(*self.image_prompts, prompt))

    def plus_control(self, control: Control) -> Conditioning:
        """Append a ControlNet; residuals add up, so the order does not matter."""
        return replace(self, control=(*self.control, control))


def with_own_words(conds: Sequence[Conditioning]) -> list[Conditioning]:
    """Return the conditionings for ControlNets: each branch with its own text and its own ControlNets."""
    return [replace(cond, control=_acting(cond, len(conds))) for cond in conds]


def with_wanted_words(conds: Sequence[Conditioning]) -> list[Conditioning]:
    """Do the same as `with_own_words`, but use the first conditional branch's text in the unconditional branch.

    Then one call serves both branches, as in the original pipelines of FLUX.1 and Qwen-Image.
    """
    wanted = next((cond for cond in conds if not cond.unwanted), conds[0])
    asked = [wanted if cond.unwanted else cond for cond in conds]
    return [replace(one, control=_acting(cond, len(conds))) for one, cond in zip(asked, conds, strict=True)]


def _acting(cond: Conditioning, branches: int) -> tuple[Control, ...]:
    """Return the ControlNets that act on this branch: `wanted_only` ones skip the unconditional branch."""
    return tuple(one for one in cond.control if not (one.wanted_only and branches > 1 and cond.unwanted))


def residuals(conds: Sequence[Conditioning], given: Given) -> Residuals | None:
    """Sum the residuals of all ControlNets in `conds`; None if there are none.

    Each ControlNet is called once, on the branches that have it. The sum of two does not depend on their order, bit for
    bit; with more it does only by rounding.
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
