"""Image encoders of transformers (CLIP's, SigLIP's): find, load and run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.common import trust
from editkit.errors import ModelError
from editkit.models.files.layout import Layout, readable_errors
from editkit.models.files.loading import find_layout, with_dtype
from editkit.models.files.weights import check_sizes, read_stored, weight_files

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

ENCODER = "image_encoder"
"""The folder name of an image encoder, beside an adapter or within a model."""

KINDS = {
    "clip": ("CLIPVisionModelWithProjection", "CLIPImageProcessor"),
    "clip_vision_model": ("CLIPVisionModelWithProjection", "CLIPImageProcessor"),
    "siglip": ("SiglipVisionModel", "SiglipImageProcessor"),
    "siglip_vision_model": ("SiglipVisionModel", "SiglipImageProcessor"),
}
"""By `model_type` of the configuration: the network and its preprocessing class."""


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """An image encoder with its preprocessing."""

    network: Any
    prepare: Any

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Preprocess pictures for the network, (pictures, 3, h, w); CLIP uses the centre square of each."""
        made: Tensor = self.prepare(list(pictures), return_tensors="pt").pixel_values
        return made.to(self.network.device, self.network.dtype)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Return one embedding for each picture, in the space of CLIP's texts: (pictures, width)."""
        made: Tensor = self.network(pixels).image_embeds
        return made

    def states(self, pixels: Tensor) -> Tensor:
        """Return the last but one layer's states, (pictures, tokens, width)."""
        made: Tensor = self.network(pixels, output_hidden_states=True).hidden_states[-2]
        return made


def is_name(value: str) -> bool:
    """Whether `value` is a hub id (owner/name) and not a folder; `./a/b` is always a folder."""
    return value.count("/") == 1 and value[0] not in "./~" and not Path(value).is_dir()


def find_image_encoder(given: str | None, near: Path | None, model: str, offline: bool) -> tuple[Layout, str] | None:
    """Return the folder of an image encoder and the component in it: the `given` one, else `image_encoder` in the
    folder `near`, else that of the model called `model`; None: there is none.

    Raises:
        ModelError: the given one does not exist.
    """
    if given is not None:
        layout = find_layout(given, offline=offline, weights=True)
        return layout, ENCODER if layout.has(ENCODER) else ""
    if near is not None and (near / ENCODER / "config.json").is_file():
        return find_layout(str(near / ENCODER), offline=True), ""
    try:
        own = find_layout(model, offline=True)
    except ModelError:
        return None
    return (own, ENCODER) if (own.path / ENCODER / "config.json").is_file() else None


def kind_of(layout: Layout, component: str) -> tuple[str, str]:
    """Return the classes of the image encoder in `component`, by its configuration alone.

    Raises:
        ModelError: it is of an unknown kind.
    """
    config = layout.config(component)
    found = KINDS.get(str(config.get("model_type")))
    if found is None:
        what = str(config.get("model_type") or config.get("_class_name"))[:60]
        raise ModelError(
            f"image encoder {layout.name}: {component or 'its network'} is a {what}; known are "
            f"{', '.join(sorted(KINDS))}"
        )
    return found


def width(layout: Layout, component: str, pooled: bool) -> int:
    """Return the width of the encoder's output, pooled or per token."""
    config = layout.config(component)
    vision = config.get("vision_config") or config
    value = (
        config.get("projection_dim", vision.get("projection_dim", 512)) if pooled else vision.get("hidden_size", 768)
    )
    return int(value)


def load_image_encoder(layout: Layout, component: str, device: torch.device, dtype: torch.dtype) -> ImageEncoder:
    """Load the encoder in `component`, frozen, with its preprocessing: from the folder `feature_extractor` or
    `image_processor` beside it, else its own folder, else CLIP's for its input size.

    Raises:
        ModelError: it is of another kind, or its weights are missing or in a pickle.
    """
    import transformers

    kind, preparation = kind_of(layout, component)
    network = load_tower(layout, component, getattr(transformers, kind), device, dtype)
    with readable_errors(layout.name):
        return ImageEncoder(network, _load_preprocessor(layout, component, getattr(transformers, preparation), network))


def load_tower(layout: Layout, component: str, kind: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a network of class `kind` of transformers, frozen; from a folder of a complete CLIP, one of its two towers.

    Raises:
        ModelError: weights are missing or in a pickle.
    """
    weights, variant = weight_files(layout, component)
    check_sizes(layout.name, component, layout.config(component), read_stored(layout.name, weights))
    with readable_errors(layout.name):
        network, report = with_dtype(kind, dtype).from_pretrained(
            layout.path / component, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True,
            output_loading_info=True, trust_remote_code=False,
        )  # fmt: skip
    network.__class__ = kind
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"encoder {layout.name}: lacks {len(missing)} tensors, the first is {missing[0]}; CLIP's with its "
            f"projection is needed"
        )
    return network.to(device).eval().requires_grad_(False)


def _load_preprocessor(layout: Layout, component: str, prepare: Any, network: Any) -> Any:
    for part in ("feature_extractor", "image_processor", component):
        if (layout.path / part / "preprocessor_config.json").is_file():
            file = f"{part}/preprocessor_config.json" if part else "preprocessor_config.json"
            trust.check_preprocessor_config(layout.name, file, layout.json(file))  # which must not select code either
            return prepare.from_pretrained(layout.path / part, local_files_only=True)
    side = network.config.image_size
    if prepare.__name__.startswith("CLIP"):
        return prepare(size=side, crop_size=side)
    return prepare(size={"height": side, "width": side})
