"""A picture as a prompt: the result resembles it in content or style.

Ye et al. 2023, "IP-Adapter", arXiv:2308.06721. An image encoder embeds the picture, a projection turns the embedding
into tokens, and each cross-attention layer attends to them in addition to the text tokens, with keys and values of its
own, weighted by `scale`. The network's weights do not change; the adapter is passed with each call. With --mask the
picture acts only inside the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from editkit.common.places import expand_path
from editkit.models.files.loading import find_layout
from editkit.models.prompts import adapter as ip
from editkit.models.prompts import redux
from editkit.models.prompts.vision import (
    ENCODER,
    ImageEncoder,
    find_image_encoder,
    is_name,
    kind_of,
    load_image_encoder,
    width,
)
from editkit.plugin import (
    Hooks,
    MaskSource,
    Metavar,
    ModelError,
    Notify,
    Picture,
    PictureSource,
    Plugin,
    Run,
    Section,
    Step,
    UsageError,
    Weights,
    capability,
)
from editkit.plugin.guidance import mask_at_state
from editkit_plugins.seen import read_for_encoder, report_cropping

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from editkit.diffusion.image_prompts import ImageTokens
    from editkit.models.files.layout import Layout
    from editkit.plugin import Conditioning


def _is_hub_id(value: str) -> bool:
    return is_name(value) and not value.endswith(".safetensors")


class ImagePrompt(Plugin):
    """Use a picture as a prompt for content and style, with or without a text (IP-Adapter or Redux).

    --adapter is the .safetensors file of an IP-Adapter, or the folder of FLUX.1 Redux. --encoder is the folder of the
    image encoder that an IP-Adapter was trained with (default: `image_encoder` beside the file, or the model's own).
    Give the plugin several times for several adapters.
    """

    name: ClassVar[str] = "image-prompt"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "image-prompt photo.png --image style.jpg --model DIR --adapter ip-adapter_sd15.safetensors --scale 0.6",
        "sdedit photo.png --model DIR --strength 0.6 with image-prompt --image style.jpg --adapter FILE",
        "inpaint photo.png --mask mask.png --model DIR with image-prompt --image hat.jpg --adapter FILE --encoder DIR",
    )
    offers: ClassVar[frozenset[str]] = frozenset({"image prompt"})
    needs: ClassVar[frozenset[str]] = frozenset({"image prompt"})
    able: ClassVar[str] = "Stable Diffusion 1.x, 2.x, XL and FLUX.1 do"
    neutral: ClassVar[Mapping[str, Any] | None] = {"scale": 0.0}
    example: ClassVar[Mapping[str, Any]] = {"image": np.full((8, 8, 3), 90, np.uint8), "adapter": "./adapter"}

    image: tuple[PictureSource, ...] = Field(
        description="The prompt picture; repeatable, and all of them are seen together."
    )
    adapter: Annotated[str, Metavar("ADAPTER", words=_is_hub_id), Weights()] = Field(
        min_length=1, description="The IP-Adapter, a .safetensors file for the model's family; or Redux's folder."
    )
    encoder: Annotated[str, Metavar("DIR_OR_ID", words=is_name)] | None = Field(
        None, description="The adapter's image encoder: a folder as transformers saves it, or a hub id."
    )
    scale: float = Field(1.0, ge=0.0, description="Weight of the picture relative to the text; 0 changes nothing.")
    mask: MaskSource | None = Field(None, description="White = where the picture acts; default: everywhere.")

    @field_validator("image", mode="before")
    @classmethod
    def _to_tuple(cls, given: Any) -> Any:
        if isinstance(given, list | tuple):
            if not given:
                raise ValueError("is an empty list; at least one picture is needed")
            return tuple(given)
        return (given,)

    def hooks(self) -> type[Hooks[ImagePrompt]]:
        return _ReduxHooks if expand_path(self.adapter).is_dir() else _ImagePromptHooks

    def open(self, picture: Picture, notify: Notify) -> Picture:
        if self.scale > 0.0:
            self.pictures()
        return picture

    def found_weights(self) -> tuple[str, ...]:
        beside = expand_path(self.adapter).parent / ENCODER
        return (
            (str(beside),) if self.encoder is None and expand_path(self.adapter).is_file() and beside.is_dir() else ()
        )

    def pictures(self) -> list[Image.Image]:
        """Read the pictures for the encoder: RGB, 8 bits, sRGB.

        Raises:
            UsageError: one cannot be read.
        """
        return [read_for_encoder(source, "image-prompt: --image") for source in self.image]


class _ImagePromptHooks(Hooks[ImagePrompt]):
    def __init__(self, plugin: ImagePrompt, run: Run) -> None:
        super().__init__(plugin, run)
        self.prompt = _bind_prompt(plugin, run) if plugin.scale > 0.0 else None

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        return cond if self.prompt is None else cond.plus_image_prompt(self.prompt)


class _ReduxHooks(Hooks[ImagePrompt]):
    """Append the pictures' tokens, times `scale`, to the text's tokens; at scale 0 nothing is appended."""

    def __init__(self, plugin: ImagePrompt, run: Run) -> None:
        super().__init__(plugin, run)
        self.tokens: Tensor | None = None
        if plugin.scale == 0.0:
            return
        if plugin.mask is not None or plugin.encoder is not None:
            given = "mask" if plugin.mask is not None else "encoder"
            raise UsageError(
                f"image-prompt: --{given} is for IP-Adapters, but {plugin.adapter} is a folder, as Redux is; Redux has "
                f"an encoder of its own, and its tokens have no position; leave --{given} out"
            )
        pictures = plugin.pictures()
        self.tokens = plugin.scale * _bind_redux(plugin, run).tokens(pictures)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        import torch

        if self.tokens is None or cond.prompt is None:
            return cond
        embeds = cond.prompt.embeds
        behind = self.tokens.to(embeds).expand(len(embeds), -1, -1)
        return replace(cond, prompt=replace(cond.prompt, embeds=torch.cat([embeds, behind], dim=1)))


def _bind_redux(plugin: ImagePrompt, run: Run) -> redux.Redux:
    """Load Redux's networks from its folder.

    Raises:
        ModelError: the folder is not Redux, or the model is not FLUX.1.
    """
    from editkit.diffusion.image_prompts import TakesImagePrompts

    model = capability(run.model, TakesImagePrompts)
    if model is None or model.places().kind != ip.FLUX:
        info = run.model.info
        raise ModelError(
            f"image-prompt: {plugin.adapter} is a folder, as Redux is, which is for FLUX.1; {info.name} "
            f"({info.family}) needs an IP-Adapter, a .safetensors file"
        )
    layout = find_layout(plugin.adapter, offline=True, weights=True)
    try:
        redux.check(layout, model.places().text)
        return run.lease.network(redux.load, layout, run.device, model.denoiser.dtype)
    except ModelError as error:
        raise ModelError(f"image-prompt: {str(error).removeprefix('image-prompt: ')}") from error


def _bind_prompt(plugin: ImagePrompt, run: Run) -> ImageTokens:
    """Load the adapter's layers and encode the pictures as tokens; file headers are checked before weights are read.

    Raises:
        ModelError: the adapter is a pickle, is not for this model's family, or has no matching encoder.
    """
    from editkit.diffusion.image_prompts import ImageTokens, TakesImagePrompts

    model = capability(run.model, TakesImagePrompts)
    if model is None:
        raise ModelError(f"image-prompt: model {run.model.info.name} does not support image prompts")
    try:
        file, places, dtype = expand_path(plugin.adapter), model.places(), model.denoiser.dtype
        says = ip.check(file, places)
        layout, component = _encoder(plugin, file, says, run)
        eye = run.lease.network(load_image_encoder, layout, component, run.device, dtype)
        adapter = run.lease.network(ip.load, file, places, run.device, dtype)
    except ModelError as error:
        raise ModelError(f"image-prompt: {str(error).removeprefix('image-prompt: ')}") from error
    pictures = plugin.pictures()
    report_cropping(plugin.name, pictures, eye, run)
    mask = None if plugin.mask is None else (mask_at_state(plugin.name, plugin.mask, run) >= 0.5).float()
    tokens, unwanted = _tokens(eye, adapter, pictures, black=places.kind == ip.FLUX)
    return ImageTokens(adapter.layers, tokens, unwanted, plugin.scale, mask)


def _tokens(
    eye: ImageEncoder, adapter: ip.Adapter, pictures: Sequence[Image.Image], black: bool
) -> tuple[Tensor, Tensor]:
    """Return the tokens of the pictures and of the branch without a prompt, (1, tokens, width) each.

    As in diffusers, the second are made from a zero embedding or the embedding of zero pixels; `black`: of a black
    picture.
    """
    import torch
    from PIL import Image

    pixels = eye.pixels(pictures)
    if adapter.pooled:
        embeds = eye.pooled(pixels)
        none = torch.zeros_like(embeds)
        if black:
            none = eye.pooled(eye.pixels([Image.new("RGB", (64, 64))])).expand(len(embeds), -1)
    else:
        embeds, none = eye.states(pixels), eye.states(torch.zeros_like(pixels))
    wanted, unwanted = (adapter.projection(part).flatten(0, 1)[None] for part in (embeds, none))
    return wanted, unwanted


def _encoder(plugin: ImagePrompt, file: Path, says: ip.AdapterHeader, run: Run) -> tuple[Layout, str]:
    """Find the adapter's image encoder: its folder, and the component in it.

    Raises:
        ModelError: there is none, or its embeddings have another width.
    """
    found = find_image_encoder(plugin.encoder, file.parent, run.model.info.name, run.options.offline)
    if found is None:
        raise ModelError(
            f"no image encoder for {file.name}: there is no folder {ENCODER} beside it, and the model has none; "
            f"--encoder names the folder of the CLIP encoder that it was trained with (width {says.width})"
        )
    layout, component = found
    kind, _ = kind_of(layout, component)
    gives = width(layout, component, says.pooled)
    if not kind.startswith("CLIP") or gives != says.width:
        raise ModelError(
            f"{file.name} takes CLIP embeddings of width {says.width}, but {layout.name} is a {kind} of width "
            f"{gives}; --encoder names the encoder that it was trained with"
        )
    return layout, component
