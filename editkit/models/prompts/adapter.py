"""IP-Adapter (Ye et al. 2023, arXiv:2308.06721): a projection of a picture's embedding to tokens, and two
matrices for each attention layer that attend to them in addition to the text,

    out = attention(q, k_text, v_text) + scale * attention(q, k_picture, v_picture).

Files have the layout that their authors publish; projections and processors are diffusers' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError
from editkit.models.files.weights import PICKLES, read, shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.image_prompts import Places

FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL", 4096: "FLUX.1"}
"""Families by the width of their text embeddings."""

PROJECTION = ("image_proj.", "ip_adapter_proj_model.")
ATTENTION = ("ip_adapter.", "double_blocks.")
"""Prefixes of tensor names: the authors', and those of XLabs' files for FLUX.1."""

FLUX = "FluxTransformer2DModel"


@dataclass(frozen=True, eq=False)
class Adapter:
    """An IP-Adapter with its weights.

    Args:
        layers: diffusers' processor of each attention layer.
        projection: maps embeddings to tokens.
        pooled: takes one embedding per picture, not the states of all its patches.
    """

    layers: Mapping[str, Any]
    projection: Any
    pooled: bool


@dataclass(frozen=True)
class AdapterHeader:
    """What an adapter's file declares: whether it takes pooled embeddings, and of which width."""

    pooled: bool
    width: int


def check(file: Path, places: Places) -> AdapterHeader:
    """Check whether the adapter in `file` fits a network; reads only the file's header.

    Raises:
        ModelError: it is not an IP-Adapter, a pickle, of another family, or needs an encoder other than CLIP.
    """
    if file.suffix.lower() in PICKLES:
        raise ModelError(
            f"{file.name} is a pickle, which can run code when it is read; only .safetensors is read as an adapter, "
            f"and most are published as such too"
        )
    if not file.is_file():
        raise ModelError(f"{file}: there is no such file")
    if file.suffix.lower() != ".safetensors":
        raise ModelError(f"{file.name} is not a .safetensors file, which an IP-Adapter is read from")
    found = {_original_key(key): shape for key, shape in shapes(file.name, file)}
    projection = {
        key.removeprefix("image_proj."): value for key, value in found.items() if key.startswith("image_proj.")
    }
    if not projection or len(projection) == len(found):
        raise ModelError(f"{file.name} is no IP-Adapter: it has no tensors image_proj. and ip_adapter.")
    if any("lora" in key for key in found) or (
        {"norm.weight", "perceiver_resampler.proj_in.weight"} & {*projection}
        and ("latents" not in projection and "proj.weight" not in projection)
    ):
        raise ModelError(
            f"{file.name} is a FaceID adapter, which needs a face recogniser's embedding; those that read CLIP's are "
            f"known"
        )
    _check_layers(file, found, places)
    return _read_header(file, projection, places)


def _check_layers(file: Path, found: Mapping[str, tuple[int, ...]], places: Places) -> None:
    wanted = {
        f"ip_adapter.{key}.{part}.weight": (width, places.text)
        for key, (_, width) in _numbered_layers(places)
        for part in ("to_k_ip", "to_v_ip")
    }
    there = {key: shape for key, shape in found.items() if key.endswith(("to_k_ip.weight", "to_v_ip.weight"))}
    if there == wanted:
        return
    text = next(iter(there.values()), (0, 0))[-1]
    theirs, ours = (
        f"{len(layers) // 2} layers for text of width {wide}{_family(wide)}"
        for layers, wide in ((there, text), (wanted, places.text))
    )
    raise ModelError(
        f"{file.name} is of another family than the model: it has {theirs}, the model {ours}; choose an adapter "
        f"that was made for this model"
    )


def _family(text: int) -> str:
    return f" ({FAMILIES[text]})" if text in FAMILIES else ""


def _numbered_layers(places: Places) -> list[tuple[int, tuple[str, int]]]:
    """Return each layer with its number in a file, which counts a UNet's self-attentions too."""
    unet = places.kind != FLUX
    return [(2 * k + 1 if unet else k, layer) for k, layer in enumerate(places.layers)]


def _read_header(file: Path, projection: Mapping[str, tuple[int, ...]], places: Places) -> AdapterHeader:
    kinds = {"proj.weight": (True, -1), "proj.3.weight": (False, 0), "proj_in.weight": (False, -1)}
    if places.kind == FLUX:
        kinds = {"proj.weight": (True, -1)}
    for key, (pooled, axis) in kinds.items():
        if key in projection:
            shape = projection["proj.0.weight"] if key == "proj.3.weight" else projection[key]
            return AdapterHeader(pooled, shape[axis])
    raise ModelError(f"{file.name}: its projection is of a kind that is not known: {', '.join(sorted(projection)[:4])}")


def _original_key(key: str) -> str:
    """Convert a tensor's name to the form of IP-Adapter's authors."""
    for kind, wanted in zip((PROJECTION, ATTENTION), ("image_proj.", "ip_adapter."), strict=True):
        for prefix in kind:
            if key.startswith(prefix):
                rest = key.removeprefix(prefix).replace("processor.", "")
                for letter in "kv":
                    rest = rest.replace(f"ip_adapter_double_stream_{letter}_proj", f"to_{letter}_ip")
                return wanted + rest
    return key


def load(file: Path, places: Places, device: torch.device, dtype: torch.dtype) -> Adapter:
    """Load the adapter in `file`, which `check` has accepted, frozen.

    Raises:
        ModelError: it is damaged, or its sizes do not match.
    """
    tensors = {_original_key(key): value for key, value in read(file.name, file, lambda _: dtype)}
    projection = {key.removeprefix("image_proj."): t for key, t in tensors.items() if key.startswith("image_proj.")}
    try:
        return Adapter(
            _layers(tensors, places, device, dtype),
            _projection(projection, places.kind).to(device, dtype).eval().requires_grad_(False),
            "proj.weight" in projection,
        )
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{file.name}: no adapter can be made of its tensors: {reason}") from error


def _projection(state: dict[str, Tensor], kind: str) -> Any:
    from diffusers.loaders.transformer_flux import FluxTransformer2DLoadersMixin
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    mixin = FluxTransformer2DLoadersMixin if kind == FLUX else UNet2DConditionLoadersMixin
    return mixin._convert_ip_adapter_image_proj_to_diffusers(None, state, low_cpu_mem_usage=False)


def _layers(tensors: Mapping[str, Tensor], places: Places, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    kind = FluxIPAdapterAttnProcessor if places.kind == FLUX else IPAdapterAttnProcessor2_0
    made = {}
    for number, (name, width) in _numbered_layers(places):
        begin = f"ip_adapter.{number}."
        state = {
            key.removeprefix(begin).replace("_ip.", "_ip.0."): value
            for key, value in tensors.items()
            if key.startswith(begin)
        }
        layer = kind(width, places.text)
        layer.load_state_dict(state)
        made[name] = layer.to(device, dtype).eval().requires_grad_(False)
    return made
