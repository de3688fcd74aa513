"""CLIP guidance: steer the picture towards a text, or towards another picture, in CLIP's embedding space.

The energy is E = scale * sum_i w_i d(f(x), g_i) / sum_i |w_i|, where f is the embedding of the picture and g_i are the
embeddings of the targets; d is averaged over random crops of the picture. d is the spherical distance
2 arcsin^2(|f - g| / 2) (Crowson 2021; Crowson et al. 2022, arXiv:2204.08583) or the cosine distance 1 - f.g (GLIDE,
Nichol et al. 2022, arXiv:2112.10741, section 2.4). A negative weight pushes away. A noise-aware CLIP model sees x_t
itself, as GLIDE's does; an ordinary one sees the estimate E[x0 | x_t].

Crops are drawn from the plugin's own noise stream and embedded `chunk` at a time. Each chunk's activations are
recomputed in the backward pass (torch.utils.checkpoint), so memory does not grow with the number of crops.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from editkit.models.clip import is_noisy, load_clip
from editkit.plugin import (
    Guidance,
    GuidanceHooks,
    Hooks,
    Picture,
    PictureSource,
    Run,
    Section,
    Step,
    Through,
    UsageError,
    Weights,
    to_unit,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Clip(Guidance):
    """Steer the picture towards a text or another picture, as a CLIP model sees it.

    --text may be given several times; `a red door:0.5` has weight 0.5, and a negative weight pushes away. --text is for
    CLIP and --prompt for the diffusion model; they are independent.
    """

    name: ClassVar[str] = "clip"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        'clip photo.png --text "a red door"',
        'inpaint photo.png --mask mask.png with clip --text "a red door"',
        'sdedit photo.png --strength 0.6 with clip --text "a watercolour"',
    )
    neutral: ClassVar[Mapping[str, Any] | None] = {"scale": 0.0}
    example: ClassVar[Mapping[str, Any]] = {"text": ("a red circle",), "clip_model": "./clip"}

    text: tuple[str, ...] = Field((), description="Target text; with a weight as `a red door:0.5`; repeatable.")
    image: PictureSource | None = Field(None, description="Target picture, whose content is wanted.")
    image_weight: float = Field(1.0, description="Weight of --image.")
    clip_model: Annotated[str, Weights()] = Field(
        "ViT-B-32:laion2b_s34b_b79k", min_length=1, description="open_clip's NAME:TAG, or a folder in its layout."
    )
    scale: float = Field(100.0, description="Strength; 0 changes nothing.")
    distance: Literal["spherical", "cosine"] = Field(
        "spherical", description="How the distance between picture and target is measured."
    )
    cuts: int = Field(8, ge=0, description="Random crops embedded in each step; 0: the whole picture only.")
    smallest: float = Field(0.3, gt=0.0, le=1.0, description="Area of the smallest crop, as a fraction of the picture.")
    chunk: int = Field(8, ge=1, description="Crops computed at a time: more is faster and takes more memory.")

    @field_validator("text", mode="before")
    @classmethod
    def _to_tuple(cls, text: Any) -> Any:
        return (text,) if isinstance(text, str) else text

    @field_validator("text")
    @classmethod
    def _not_empty(cls, text: tuple[str, ...]) -> tuple[str, ...]:
        for words in text:
            if not parse_weighted(words)[0].strip():
                raise ValueError(f"is {words!r}; a text is needed, as `a red door` or `a red door:0.5`")
        return text

    @model_validator(mode="after")
    def _check_target(self) -> Clip:
        if not self.text and self.image is None:
            raise ValueError("there is no target: give --text, or --image with a picture")
        if not any(w for _, w in map(parse_weighted, self.text)) and (self.image is None or not self.image_weight):
            raise ValueError("every weight is 0, so there is no target; give one a weight other than 0")
        return self

    def hooks(self) -> type[Hooks[Clip]]:
        return _ClipHooks

    def through(self) -> Through:
        return self.gradient or ("x_t" if is_noisy(self.clip_model) else "network")

    def strength(self) -> float:
        return self.scale


def parse_weighted(words: str) -> tuple[str, float]:
    """Split `a red door:0.5` into (text, weight). The weight is 1 if none is written."""
    text, colon, number = words.rpartition(":")
    try:
        return (text, float(number)) if colon else (words, 1.0)
    except ValueError:
        return words, 1.0


class _ClipHooks(GuidanceHooks[Clip]):
    def __init__(self, plugin: Clip, run: Run) -> None:
        import torch

        super().__init__(plugin, run)
        if plugin.scale == 0.0:
            return
        self.clip = run.lease.network(load_clip, plugin.clip_model, run.device, offline=run.options.offline)
        asked = plugin.through()
        if (asked == "x_t") != (self.clip.log_snr is not None):
            kind = "not noise-aware, so it cannot see x_t" if asked == "x_t" else "noise-aware, so it sees x_t"
            raise UsageError(f"clip: {plugin.clip_model} is {kind}; leave --gradient out")
        self.clip.check(run.shape, run.levels[1:])
        wishes = [parse_weighted(words) for words in plugin.text]
        targets = [self.clip.texts([text for text, _ in wishes], run.device)] if wishes else []
        weights = [weight for _, weight in wishes]
        if plugin.image is not None:
            picture = to_unit(Picture.read(plugin.image).coloured_as(None).visible).to(run.device)
            with torch.no_grad():
                targets.append(self.clip.images(picture))
            weights.append(plugin.image_weight)
        self.targets = torch.cat(targets)
        total = sum(abs(weight) for weight in weights)
        self.weights = torch.tensor([weight / total for weight in weights], device=run.device)

    def loss(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"]:
        """Return the weighted mean distance to the targets, averaged over the crops: (batch,)."""
        import torch
        from torch.utils.checkpoint import checkpoint

        if self.clip.log_snr is not None:
            return self._distance(self.clip.noisy(step.x_t, step.t))
        image, cuts = self.pixels(step, x0), self.plugin.cuts
        if cuts == 0:
            return self._distance(self.clip.images(image))
        seeds = self._seeds(len(image), cuts)
        size = max(1, self.plugin.chunk // len(image))
        total = torch.zeros(len(image), device=image.device)
        for first in range(0, cuts, size):
            part = partial(self._cutouts, seeds=seeds[:, first : first + size])
            total = total + checkpoint(part, image, use_reentrant=False, preserve_rng_state=False)
        return total / cuts

    def _cutouts(self, image: Tensor, seeds: Tensor) -> Tensor:
        """Sum the distances of one crop of each item for every column of `seeds` (b, cuts): (b,)."""
        import torch

        pairs = [(one[None], int(seed)) for one, row in zip(image, seeds, strict=True) for seed in row]
        cut = torch.cat([self._augment(one, seed) for one, seed in pairs])
        summed: Tensor = self._distance(self.clip.images(cut)).reshape(seeds.shape).sum(1)
        return summed

    def _augment(self, image: Tensor, seed: int) -> Tensor:
        """Crop a random square of (1, 3, h, w) at CLIP's input size, slightly rotated and shifted."""
        import kornia.augmentation as K

        from editkit.common.process import drawing

        side = self.clip.size
        crop = K.RandomResizedCrop((side, side), scale=(self.plugin.smallest, 1.0), ratio=(0.9, 1.1))
        turn = K.RandomAffine(degrees=8.0, translate=(0.05, 0.05), p=0.7, padding_mode="border")
        with drawing(seed):  # kornia draws from torch's global generator
            turned: Tensor = turn(crop(image))
        return turned

    def _seeds(self, batch: int, cuts: int) -> Tensor:
        """Draw (batch, cuts) integers from this plugin's own noise stream."""
        import torch

        z = self.run.stream.normal((batch, cuts))
        uniform: Tensor = torch.special.ndtr(z.double())
        return (uniform * (2**31 - 1)).long()

    def _distance(self, embedded: Tensor) -> Tensor:
        """Return the weighted distance of embeddings (n, width) to the targets: (n,)."""
        if self.plugin.distance == "cosine":
            each = 1.0 - embedded @ self.targets.T
        else:
            apart = (embedded[:, None] - self.targets).norm(dim=-1)
            each = 2.0 * (apart / 2.0).clamp(max=1.0 - 1e-6).asin().square()
        return each @ self.weights
