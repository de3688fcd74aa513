"""Models from folders and hub ids: which family a folder is of, and that family's adapter.

A family is a module with `matches(layout)`, `describe(layout)` and `load(layout, info, device, dtype)`; the first that
matches has the folder. Nothing here imports torch or diffusers until weights are loaded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from editkit.errors import ModelError
from editkit.models import latent, pixel, pocket, sd3, sdxl, upscaler
from editkit.models.base import Model, ModelInfo, Notifies
from editkit.models.capability import capability
from editkit.models.layout import Layout
from editkit.models.loading import complete, find
from editkit.models.memory import DENOISER, available, weigh
from editkit.models.weights import Ahead

if TYPE_CHECKING:
    import torch


class Family(Protocol):
    """What a module of a family of models defines."""

    KNOWN: str
    """The family in words, for messages."""

    def matches(self, layout: Layout) -> bool:
        """True when the folder is of this family."""
        ...

    def describe(self, layout: Layout) -> ModelInfo:
        """What is known without weights."""
        ...

    def load(self, layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
        """The model with its weights."""
        ...


FAMILIES: tuple[Family, ...] = (pocket, pixel, upscaler, latent, sdxl, sd3)


def describe_folder(name: str, *, offline: bool = False) -> ModelInfo:
    """What is known of a folder or hub id from its configuration alone; imports neither torch nor diffusers.

    Raises:
        ModelError: not found (says where it was looked for), incomplete, or of a family that is not known.
    """
    layout = find(name, offline=offline)
    return _family(layout).describe(layout)


def load_folder(
    name: str, info: ModelInfo, device: torch.device, dtype: torch.dtype, *, offline: bool = False
) -> Model:
    """The model called `name` that `describe_folder` spoke of, its network in `dtype` on `device`.

    Raises:
        ModelError: weights missing, misshapen, or in a pickle.
    """
    layout = find(name, offline=offline, weights=True)
    latent = layout.has("vae")
    beside = (info.window or 0) ** 2 * DENOISER[dtype.itemsize] if latent else 0
    on_disk = weigh(layout, dtype.itemsize, available(device), beside, device.type == "cuda")
    if not latent:
        return _family(layout).load(layout, info, device, dtype)
    parts = ["unet", "transformer", "vae"] if layout.file is None else []
    ahead = Ahead(layout, {part: dtype for part in parts if layout.has(part)})
    layout = replace(layout, texts_on_disk=on_disk, ahead=ahead)
    try:
        model = _family(layout).load(layout, info, device, dtype)
    finally:
        ahead.end()
    told = capability(model, Notifies)
    if layout.texts_on_disk and told is not None:
        told.chosen = ("memory is short: the text encoders stay on disk, and are read layer by layer for every text",)
    return model


def cached() -> tuple[ModelInfo, ...]:
    """The models in the hub's cache on this machine that can be used: of a known family and with their weights, by
    name, with the revision where that is not `main`; opens no socket.
    """
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError):
        return ()
    found = []
    for name in sorted(_name(repo.repo_id, r) for repo in repos if repo.repo_type == "model" for r in repo.revisions):
        try:
            if complete(find(name, offline=True)):
                found.append(describe_folder(name, offline=True))
        except ModelError:
            continue  # of another kind than pictures, or not fetched to the end
    return tuple(found)


def _name(repository: str, revision: Any) -> str:
    """What `--model` is given for one cached revision: by its branch or tag, else by its commit."""
    if "main" in revision.refs:
        return repository
    return f"{repository}@{min(revision.refs, default=revision.commit_hash)}"


def _family(layout: Layout) -> Family:
    for family in FAMILIES:
        if family.matches(layout):
            return family
    known = "; ".join(family.KNOWN for family in FAMILIES)
    if not layout.index and not (layout.path / "config.json").is_file():
        raise ModelError(
            f"model {layout.name}: {layout.path} has neither model_index.json nor config.json; known: {known}"
        )
    kind = layout.index.get("_class_name") or layout.config().get("_class_name", "a network without a class name")
    raise ModelError(f"model {layout.name} is of a family that is not known ({kind}); known: {known}")
