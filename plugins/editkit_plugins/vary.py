"""Variations of a picture by unCLIP: pictures with the same image embedding.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents", arXiv:2204.06125, section 3. A
decoder generates a picture from z_i, the CLIP embedding of a picture. Everything that z_i does not determine is in the
decoder's initial noise x_T, which inversion finds. With z_i and x_T the decoder reconstructs the picture; with z_i
alone it makes a variation. Given two texts, z_i is rotated towards the difference of their embeddings (text diffs),

    z = |z_i| slerp(z_i / |z_i|, norm(z_to - z_from), by),

and x_T is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from editkit.diffusion.model import TakesEmbeddings
from editkit.diffusion.samplers import make_sampler
from editkit.editing.between import between
from editkit.models.files.loading import find_layout
from editkit.models.prompts import words
from editkit.models.prompts.vision import ImageEncoder, find_image_encoder, is_name, kind_of, load_image_encoder, width
from editkit.plugin import (
    ChainError,
    Hooks,
    Metavar,
    ModelError,
    ModelInfo,
    Options,
    Picture,
    Plan,
    Plugin,
    Run,
    Section,
    Step,
    UsageError,
    capability,
    from_unit,
)
from editkit_plugins.seen import report_cropping

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image
    from torch import Tensor

    from editkit.models.files.layout import Layout
    from editkit.plugin import Conditioning

Clip = Annotated[str, Metavar("DIR_OR_ID", words=is_name)]


class Embedded(Plugin):
    """Base class of edits that pass an image embedding to a decoder: the encoders, and the decoder's initial noise."""

    group: ClassVar[Section] = "steer"
    offers: ClassVar[frozenset[str]] = frozenset({"embedding"})
    needs: ClassVar[frozenset[str]] = frozenset({"embedding"})
    able: ClassVar[str] = "Stable unCLIP and Kandinsky 2.2's decoder do"
    fresh: ClassVar[bool] = True

    origin: Literal["auto", "noise", "inverted"] = Field(
        "auto", description="Initial noise: random, by the seed, or the picture's own, found by inversion."
    )
    noise_level: int = Field(0, ge=0, description="Noise level of the embedding; more gives freer variations.")
    clip: Clip | None = Field(
        None, description="The decoder's CLIP model, where the model's folder does not contain all of it."
    )

    @property
    def inverts(self) -> bool:
        """Whether the decoder starts from the picture's own noise."""
        return self.origin == "inverted"

    def hooks(self) -> type[Hooks[Any]]:
        return _InvertingHooks if self.inverts else EmbeddedHooks

    def default_options(self, info: ModelInfo) -> Options:
        """For inversion, choose a reversible sampler and no guidance, which would not lead back to the picture."""
        if not self.inverts:
            return Options()
        rule = {} if make_sampler(info.sampler).reversible else {"sampler": "ddim"}
        return Options(guidance_scale=1.0, **rule)

    def plan(self, plan: Plan) -> Plan:
        return plan.encode() + plan if self.inverts else plan

    def target(self, own: Tensor, sight: ClipEncoders) -> Tensor:
        """Return the embedding to decode, (1, width), given the picture's embedding `own`."""
        return own


class Vary(Embedded):
    """Make variations of the picture with the same content and style, another for each --seed (unCLIP).

    With --from-text and --to-text the content changes from the one to the other, and everything else is kept.
    """

    name: ClassVar[str] = "vary"
    usage: ClassVar[tuple[str, ...]] = (
        "vary photo.jpg --model DIR --seed 3",
        'vary photo.jpg --model DIR --clip DIR --from-text "a house" --to-text "a house in winter" --by 0.3',
        "invert photo.jpg --model DIR --guidance-scale 1 --refine 3 with vary --origin noise",
    )

    from_text: str | None = Field(None, description="What the picture shows, of the part that is to change.")
    to_text: str | None = Field(None, description="What it should show instead.")
    by: float = Field(
        0.35,
        ge=0.0,
        le=1.0,
        description="How far the embedding is rotated along the difference of the texts; 0: not at all.",
    )

    @model_validator(mode="after")
    def _check_texts(self) -> Self:
        if (self.from_text is None) != (self.to_text is None):
            raise ValueError("--from-text and --to-text belong together; give both, or neither")
        return self

    @property
    def inverts(self) -> bool:
        return self.origin == "inverted" or (self.origin == "auto" and self.to_text is not None)

    def target(self, own: Tensor, sight: ClipEncoders) -> Tensor:
        if self.from_text is None or self.to_text is None:
            return own
        z = sight.texts(self.to_text) - sight.texts(self.from_text)
        if not bool(z.any()):
            raise UsageError("vary: --from-text and --to-text say the same, so there is nothing to turn towards")
        return between(own, z * (own.norm() / z.norm()), self.by)


class ClipEncoders:
    """The CLIP encoders of one run, which embed pictures and texts in one space.

    Raises:
        ModelError: the model takes no embedding, or has no image encoder of the right width.
    """

    def __init__(self, plugin: Embedded, run: Run) -> None:
        model = capability(run.model, TakesEmbeddings)
        if model is None:
            raise ModelError(f"{plugin.name}: model {run.model.info.name} does not take an image embedding")
        self.plugin, self.run, self.model = plugin, run, model
        try:
            layout, component = self._eye()
            self.eye: ImageEncoder = run.lease.network(
                load_image_encoder, layout, component, run.device, model.denoiser.dtype
            )
        except ModelError as error:
            raise ModelError(f"{plugin.name}: {error}") from error

    def _eye(self) -> tuple[Layout, str]:
        run, name = self.run, self.run.model.info.name
        found = find_image_encoder(None, None, name, run.options.offline) or find_image_encoder(
            self.plugin.clip, None, name, run.options.offline
        )
        if found is None:
            raise ModelError(f"model {name} comes without its image encoder; --clip names the encoder's folder")
        kind, _ = kind_of(*found)
        gives, wanted = width(*found, pooled=True), self.model.embedding_width
        if not kind.startswith("CLIP") or gives != wanted:
            raise ModelError(
                f"{found[0].name} is a {kind} with embeddings of width {gives}, but model {name} takes CLIP embeddings "
                f"of width {wanted}; --clip names the one it was trained with"
            )
        return found

    def pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embed n pictures: (n, width), float32."""
        report_cropping(self.plugin.name, pictures, self.eye, self.run)
        return self.eye.pooled(self.eye.pixels(pictures)).float()

    def nothing(self) -> Tensor:
        """Embed an empty picture, whose prepared pixels are zero: (1, width)."""
        import torch

        side = self.eye.network.config.image_size
        empty = torch.zeros(1, 3, side, side, device=self.run.device, dtype=self.eye.network.dtype)
        return self.eye.pooled(empty).float()

    def texts(self, text: str) -> Tensor:
        """Embed a text: (1, width), of norm 1.

        Raises:
            ModelError: there is no text encoder that shares the pictures' embedding space.
        """
        plugin, run, wanted = self.plugin, self.run, self.model.embedding_width
        try:
            layout = find_layout(plugin.clip or run.model.info.name, offline=run.options.offline, weights=True)
            gives = words.width(layout)
            if gives != wanted:
                raise ModelError(f"{layout.name} has embeddings of width {gives}, but {wanted} is needed")
            reader = run.lease.network(words.load_words, layout, run.device, self.eye.network.dtype)
        except ModelError as error:
            raise ModelError(
                f"{plugin.name}: {error}; --clip names the folder of the CLIP model whose image encoder this model uses"
            ) from error
        made: Tensor = reader.embed(text).float()
        unit: Tensor = made / made.norm()
        return unit


class EmbeddedHooks(Hooks[Any]):
    """Pass the picture's own embedding on the way up, and the target on the way down."""

    def __init__(self, plugin: Embedded, run: Run) -> None:
        super().__init__(plugin, run)
        if run.inputs.picture is None:
            raise ChainError(f"{plugin.name} needs a picture; with sample(), give known=")
        sight = ClipEncoders(plugin, run)
        own = sight.pictures(_whole_pictures(run))
        none, target = sight.nothing(), plugin.target(own, sight)

        @cache
        def draw() -> Tensor:
            """Draw once, so that all embeddings get the same noise."""
            return run.noise.stream("embedding").normal(own.shape).to(run.device)

        self.own, self.target = (
            sight.model.prepare_embedding(one, none, plugin.noise_level, draw) for one in (own, target)
        )

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return replace(cond, embedding=self.own if step.move.up else self.target)


def _whole_pictures(run: Run) -> list[Image.Image]:
    """Return the edited pictures as they came: the whole picture, not only the part that a pass works on."""
    from PIL import Image

    from editkit.plugin import at_depth

    whole, picture = run.inputs.whole, run.inputs.picture
    if whole is not None:
        seen = Picture(whole) if run.inputs.file is None else Picture(whole, meta=run.inputs.file).coloured_as(None)
        return [Image.fromarray(at_depth(seen.pixels, "uint8"))]
    assert picture is not None
    return [Image.fromarray(from_unit(one[None].cpu(), "uint8")) for one in picture]


class _InvertingHooks(EmbeddedHooks):
    def begin(self) -> Float[Tensor, "b c *size"] | None:
        known = self.run.inputs.known
        assert known is not None
        return known.expand(self.run.shape)
