"""Model families from entry points (group `editkit.models`), and the family of a folder or hub id.

An entry point is a module or an object of one of two kinds. A `Family` reads folders: `matches(layout)`,
`describe(layout)`, `load(layout, info, device, dtype)`. A `Named` model is chosen by its name, `--model NAME`:
`info()`, `make(info, device, dtype)`, `weights()`. It may be both, like `pocket`. This module imports neither torch
nor diffusers until weights are loaded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from editkit.common.entries import Group, InstalledEntry
from editkit.common.spec import did_you_mean
from editkit.diffusion.capability import capability, networks
from editkit.diffusion.model import Model, ModelInfo, Notifies
from editkit.errors import ModelError
from editkit.models.files import overlay, quantising
from editkit.models.files.layout import Layout, suggest_folder
from editkit.models.files.loading import find_layout, is_complete
from editkit.models.files.quantised import check as check_quantised
from editkit.models.files.quantised import is_quantised, method
from editkit.models.files.quantising import Quantize
from editkit.models.files.weights import AheadReader
from editkit.models.memory import DENOISER, available, estimate_memory

if TYPE_CHECKING:
    from pathlib import Path

    import torch


@runtime_checkable
class Family(Protocol):
    """The interface of a model family. At most one family may match a folder."""

    KNOWN: str
    """The name of the family, for messages."""

    def matches(self, layout: Layout) -> bool:
        """Whether the folder belongs to this family."""
        ...

    def describe(self, layout: Layout) -> ModelInfo:
        """Describe the model without loading its weights."""
        ...

    def load(self, layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
        """Load the model with its weights."""
        ...


@runtime_checkable
class Named(Protocol):
    """A model chosen by the name of its entry point, such as one that comes with a package."""

    def info(self) -> ModelInfo:
        """Describe the model without loading its weights; its `name` is that of the entry point.

        Raises:
            ModelError: it is not part of this installation.
        """
        ...

    def make(self, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
        """Load the model with its weights."""
        ...

    def weights(self) -> Path | None:
        """Return the path of its weights, for the provenance; None: it has none."""
        ...


API = 1
"""The version of these protocols."""

GROUP = "editkit.models"
FAMILIES = Group(GROUP, "model", "editkit plugins")


def load_family(name: str) -> Family | Named:
    """Return the family or model of the entry point called `name`.

    Raises:
        UsageError: there is no such entry point.
        PluginError: it cannot be imported, or is neither a family nor a model.
    """
    found = FAMILIES.load(name)
    if isinstance(found, Named):
        FAMILIES.check_attributes(found, name, ("info", "make", "weights"), API)
        return found
    FAMILIES.check_attributes(found, name, ("KNOWN", "matches", "describe", "load"), API)
    return cast(Family, found)


def list_installed() -> list[InstalledEntry[Family | Named]]:
    """List all installed families and models; broken ones with the reason."""
    return FAMILIES.list_installed(load_family)


def find_named(name: str) -> Named | None:
    """Return the model with exactly this name; None if there is none (the name may be a folder)."""
    found = load_family(name) if name in FAMILIES.names() else None
    return found if isinstance(found, Named) else None


def describe_folder(name: str, *, offline: bool = False, transformer: str | None = None) -> ModelInfo:
    """Describe the model of a folder or hub id from its configuration alone; imports neither torch nor diffusers.
    `transformer`: a separate file with its denoiser's weights.

    Raises:
        ModelError: not found (the message names the places searched), incomplete, or of an unknown family.
    """
    over = None if transformer is None else overlay.transformer_file(transformer)
    try:
        layout = find_layout(name, offline=offline, over=over)
    except ModelError as error:
        hint = "" if "/" in name else did_you_mean(name, FAMILIES.names())
        raise ModelError(f"{error}{hint}") from error
    if over is None:
        return _family(layout).describe(layout)
    overlay.check(layout, over)
    return replace(_family(layout).describe(layout), transformer=transformer)


def load_folder(
    name: str,
    info: ModelInfo,
    device: torch.device,
    dtype: torch.dtype,
    *,
    offline: bool = False,
    quantize: Quantize = "none",
) -> Model:
    """Load the model called `name` that `describe_folder` described, its network in `dtype` on `device`.

    `quantize`: quantise its linear layers.

    Raises:
        ModelError: weights are missing, have the wrong shape, are in a pickle, or cannot be quantised.
    """
    over = None if info.transformer is None else overlay.transformer_file(info.transformer)
    layout = find_layout(name, offline=offline, weights=True, over=over)
    if quantize != "none":
        quantising.check(layout)
        quantising.check_numbers(dtype)
        layout = replace(layout, int8=True)
    parts = ["vae", *(overlay.DENOISERS if over is None else ())] if layout.file is None else []
    latent = layout.has("vae")
    for part in (part for part in parts if layout.has(part)):
        check_quantised(layout, part, device.type == "cuda")
    beside = (info.window or 0) ** 2 * DENOISER[dtype.itemsize] if latent else 0
    on_disk = _as_diffusers(layout) and estimate_memory(
        layout, dtype.itemsize, available(device), beside, device.type == "cuda"
    )
    if not latent:
        return _check_packed(layout, _family(layout).load(layout, info, device, dtype))
    whole = [part for part in parts if layout.has(part) and method(layout, part) is None]
    ahead = AheadReader(layout, {part: dtype for part in whole if not layout.int8 or part == "vae"})
    layout = replace(layout, texts_on_disk=on_disk, ahead=ahead)
    try:
        model = _family(layout).load(layout, info, device, dtype)
    finally:
        ahead.end()
    notifier = capability(_check_packed(layout, model), Notifies)
    if layout.texts_on_disk and notifier is not None:
        notifier.chosen = (
            "memory is short: the text encoders stay on disk, and are read layer by layer for every text",
        )
    return model


def _check_packed(layout: Layout, model: Model) -> Model:
    """`model`, whose family read its weights as `layout` says.

    Raises:
        ModelError: its network was to be packed, and is not.
    """
    if layout.int8 and not any(map(is_quantised, networks(model))):
        raise ModelError(
            f"--quantize int8: the family of model {layout.name} reads its weights itself ({model.info.family}); leave "
            "--quantize out, or choose another --model"
        )
    return model


def _as_diffusers(layout: Layout) -> bool:
    """Whether the weights are where diffusers keeps them; a third-party family with another layout counts its own."""
    return layout.file is not None or bool(layout.index) or (layout.path / "config.json").is_file()


def cached_models() -> tuple[ModelInfo, ...]:
    """List the usable models in this machine's hub cache, sorted by name: of a known family, with their weights, and
    with the revision if it is not `main`. Does not connect to the internet.
    """
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, ValueError, RuntimeError, OSError):  # no home folder, or one without read access
        return ()
    found = []
    for name in sorted(_name(repo.repo_id, r) for repo in repos if repo.repo_type == "model" for r in repo.revisions):
        try:
            if is_complete(find_layout(name, offline=True)):
                found.append(describe_folder(name, offline=True))
        except ModelError:
            continue  # not a picture model, or an incomplete download
    return tuple(found)


def _name(repository: str, revision: Any) -> str:
    """Return the `--model` name of a cached revision: by its branch or tag, else by its commit."""
    if "main" in revision.refs:
        return repository
    return f"{repository}@{min(revision.refs, default=revision.commit_hash)}"


def _family(layout: Layout) -> Family:
    """Return the family that matches the folder.

    Raises:
        ModelError: no family matches, or several do.
    """
    rows = list_installed()
    families = {row.name: row.kind for row in rows if isinstance(row.kind, Family)}
    mine = [name for name, family in families.items() if _matches(family, layout)]
    if len(mine) > 1:
        raise ModelError(f"model {layout.name}: {' and '.join(mine)} both claim this folder; uninstall one of them")
    if mine:
        return families[mine[0]]
    known = "; ".join([family.KNOWN for family in families.values()] + [row.broken for row in rows if row.broken])
    near = None if layout.index else suggest_folder(layout.path)
    if near:
        raise ModelError(f"model {layout.name}: is not a complete model; {near}")
    if not layout.index and not (layout.path / "config.json").is_file():
        raise ModelError(
            f"model {layout.name}: {layout.path} has neither model_index.json nor config.json; known: {known}"
        )
    kind = layout.index.get("_class_name") or layout.config().get("_class_name", "a network without a class name")
    raise ModelError(f"model {layout.name} is of a family that is not known ({kind}); known: {known}")


def _matches(family: Family, layout: Layout) -> bool:
    """Whether the family matches; a third-party family that raises an error does not match."""
    try:
        return bool(family.matches(layout))
    except ModelError:
        raise
    except Exception:
        return False
