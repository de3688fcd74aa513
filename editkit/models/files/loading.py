"""Folders and hub ids in diffusers' layout: find them, read their configuration, load their weights.

Weights come from safetensors only: a pickle can run code when it is read. Reading the configuration imports neither
torch nor diffusers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.common import hub, trust
from editkit.common.places import expand_path
from editkit.errors import ModelError
from editkit.models.files import overlay, quantised, quantising, single_file
from editkit.models.files.layout import Layout, explain_mistake
from editkit.models.files.weights import (
    PICKLES,
    check,
    check_sizes,
    compare,
    is_statistic,
    pickle_error,
    read,
    read_stored,
    weight_files,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "diffusion_pytorch_model*.safetensors", "model*.safetensors")
"""The files of a component to download; excludes single-file checkpoints beside the folders."""
_OTHERS = ("*.fp16.*", "*.fp16-*", "*.bf16.*", "*.non_ema.*", "*.ema_only.*")
"""Other copies of the weights."""
DENOISERS = overlay.DENOISERS
_IDLE = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that are unused, or used only by image prompts (`editkit.models.prompts.vision`)."""
_SEEING = ("image_normalizer", "image_embedder", "prior")
"""Components that make an image encoder part of the model: unCLIP, Redux, Kandinsky's prior."""


def find_layout(name: str, *, offline: bool, weights: bool = False, over: Path | None = None) -> Layout:
    """Return the folder of the model called `name`: a path, or `OWNER/NAME[@REVISION]` on the hub, which is downloaded
    (`weights`: with its weights, else only its configuration) unless `offline`. A suffix `:VARIANT` selects a copy of
    the weights. `over`: a file that replaces the denoiser's own weights.

    Raises:
        ModelError: it was not found, or is incomplete; the message names the places searched.
    """
    if not is_valid_file_name(name):
        raise ModelError(f"model {name[:80]!r}... was not found: no file has a name of {len(name)} characters")
    where, variant = name_and_variant(name)
    path = expand_path(where)
    if path.suffix.lower() in PICKLES and path.is_file():
        raise ModelError(pickle_error(name, path))
    if path.is_dir():
        layout = Layout(name, path, variant=variant, over=over)
        return _require_weights(layout, "") if variant else layout
    if path.is_file():
        if variant is not None:
            raise ModelError(f"model {name}: a single file has no variants; leave out :{variant}")
        overlay.refuse_single_network(name, path, over)
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"model {name} is a file; --model takes a folder, a hub id or a .safetensors file")
        folder = single_file.find_configuration(path, lambda repository: _from_hub(repository, offline, False))
        return Layout(name, folder, path)
    if where.count("/") != 1 or where.startswith((".", "/", "~")):
        raise ModelError(f"model {name!r} was not found: there is no such folder, and it is not a hub id (owner/name)")
    without = () if over is None else DENOISERS
    layout = Layout(name, _from_hub(where, offline, weights, variant, without), variant=variant, over=over)
    return (
        _require_weights(layout, "; --offline is on, so the hub was not asked" if offline else "")
        if weights
        else layout
    )


def is_valid_file_name(name: str) -> bool:
    """Whether `name` can be a file name, that is, no part of it is too long."""
    parts = os.fsencode(name).split(b"/")
    return "\0" not in name and len(os.fsencode(name)) < 4096 and max(map(len, parts)) < 256


def name_and_variant(name: str) -> tuple[str, str | None]:
    """Split `MODEL[:VARIANT]`; a variant has no slash or dot, and an existing path has no variant."""
    model, colon, variant = name.rpartition(":")
    if not colon or not re.fullmatch(r"\w{2,}", variant) or expand_path(name).exists():
        return name, None
    return model, variant


def _require_weights(layout: Layout, why: str) -> Layout:
    """Return `layout` if each of its networks has weights, and some of them are of its variant.

    Raises:
        ModelError: weights are missing.
    """
    parts = [part for part in _parts(layout) if layout.over is None or part.strip("/") not in DENOISERS]
    files = {part: [f.name for f in (layout.path / part).glob("*") if f.is_file()] for part in parts}
    for part, names in files.items():
        if "config.json" in names and not any(name.endswith((".safetensors", *PICKLES)) for name in names):
            raise ModelError(f"model {layout.name}: no safetensors weights in {part.strip('/') or 'the folder'}{why}")
    weights = [name for names in files.values() for name in names if name.endswith(".safetensors")]
    if layout.variant is not None and not any(
        f".{layout.variant}." in name or f".{layout.variant}-" in name for name in weights
    ):
        kinds = {match[1] for name in weights if (match := re.search(r"\.([a-z]+\w*)[.-]", name))} - {"safetensors"}
        has = f"; it has: {', '.join(sorted(kinds))}" if kinds else ""
        raise ModelError(f"model {layout.name}: no weights of the variant {layout.variant!r}{has}{why}")
    return layout


def is_complete(layout: Layout) -> bool:
    """Whether each of its networks has loadable weights on this machine."""
    try:
        for part in _parts(layout):
            if (layout.path / part / "config.json").is_file():
                weight_files(layout, part.strip("/"))
    except ModelError:
        return False
    return True


# long: two downloads, and one message for each possible problem
def _from_hub(
    name: str, offline: bool, weights: bool, variant: str | None = None, without: Collection[str] = ()
) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    alone = hub.local_only(offline)

    def fetch(patterns: list[str], but: tuple[str, ...] = ()) -> Path:
        return Path(
            snapshot_download(
                repo, revision=revision or None, allow_patterns=patterns, ignore_patterns=list(but),
                local_files_only=alone,
            )
        )  # fmt: skip

    try:
        path = fetch(["*.json", "*.txt"])
        if alone or not weights:
            return path
        parts = [part for part in _parts(Layout(name, path)) if part.strip("/") not in without]

        def lacking() -> list[str]:
            return [
                p for p in parts if (path / p / "config.json").is_file() and not any((path / p).glob("*.safetensors"))
            ]

        if variant is not None:
            fetch([f"{part}*.{variant}{end}" for part in parts for end in (".safetensors", "-*.safetensors")])
            fetch([f"{part}{kind}" for part in parts for kind in _FILES if not kind.endswith("safetensors")])
        plain = lacking() if variant is not None else parts
        if plain:
            fetch([f"{part}{kind}" for part in plain for kind in _FILES], but=_OTHERS)
        for part in lacking():  # a folder with weights in half precision only
            fetch([f"{part}*.fp16*"])
        return path
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        where = f"no folder {name!r}, nothing in {constants.HF_HUB_CACHE}"
        how = "" if offline or not alone else f"; with a network connection: editkit models download {name}"
        raise ModelError(
            f"model {name!r} was not found: {where}; {hub.explain_failure(offline, error)}{how}"
        ) from error


def _parts(layout: Layout) -> list[str]:
    """Return the folders to load, each with a slash; the repository itself for a single network."""
    idle = {*_IDLE} - ({"image_encoder", "feature_extractor"} if any(map(layout.has, _SEEING)) else set())
    listed = [part for part in layout.index if part not in idle and layout.has(part) and not part.startswith("_")]
    folders = [part for part in listed if isinstance(layout.index[part], list)]
    return [f"{part}/" for part in folders] or [""]


def load_network(layout: Layout, component: str, kind: type[Any], dtype: torch.dtype, device: torch.device) -> Any:
    """Load a diffusers network of class `kind`, frozen, in `dtype`, and channels-last if it takes images.

    Raises:
        ModelError: weights are missing or have the wrong shape (how many, and the first), or are in a pickle.
    """
    import torch

    from editkit.models.fast.norms import use_steady_norms
    from editkit.models.fast.packing import pack
    from editkit.models.files.skeleton import meta_skeleton

    if layout.file is not None:
        network = single_file.load_component(layout, component, dtype, (kind.__name__,))
        network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        return pack(use_steady_norms(network)) if device.type == "cpu" else network
    laid = layout.over if component in DENOISERS else None
    file = weight_files(layout, component)[0] if laid is None else laid
    config = dict(layout.config(component))
    unpacks = laid is None and quantised.must_unpack(layout, component, device.type == "cuda")
    if laid is None and quantised.KEY in config and not unpacks:
        return use_steady_norms(quantised.load(layout, component, kind, dtype, device))
    config.pop(quantised.KEY, None)
    check_sizes(layout.name, component, config, overlay.list_tensors(layout.name, file))
    try:
        with meta_skeleton():
            skeleton = kind.from_config(config)
    except (TypeError, ValueError, KeyError, NotImplementedError, IndexError) as error:
        raise ModelError(
            f"model {layout.name}: no {kind.__name__} can be built from its configuration: {_first_line(error)}"
        ) from error
    packs = layout.int8 and component in quantising.denoisers(layout)
    if laid is None:
        found = _load_own_file(layout, component, file, skeleton, dtype, unpacks, packs)
    else:
        found = overlay.tensors(layout, config, skeleton, dtype)
        found = dict(quantising.int8(quantising.pop_items(found), skeleton)) if packs else found
    if overlay.stays_packed(laid):
        network = overlay.unpacking_network(layout, component, skeleton, found, dtype)
        return use_steady_norms(network.to(device).eval().requires_grad_(False))
    network = _fill_skeleton(skeleton, found, config, dtype).to(device).eval().requires_grad_(False)
    if packs:
        network.is_quantized = True  # as diffusers marks its own
    return pack(use_steady_norms(network)) if device.type == "cpu" else network


def _load_own_file(
    layout: Layout, component: str, file: Path, skeleton: Any, dtype: torch.dtype, unpacks: bool, packs: bool
) -> dict[str, Tensor]:
    """Read the tensors of a component's own `file`, with the names and shapes of `skeleton`, in `dtype`; `unpacks`:
    they are packed by bitsandbytes; `packs`: quantise them with torchao.

    Raises:
        ModelError: some are missing or have the wrong shape.
    """
    import torch

    expected = {key: tuple(value.shape) for key, value in skeleton.state_dict().items()}
    if unpacks:
        found = quantised.read_unpacked(layout, component, file, dtype)
        shapes = {key: tuple(value.shape) for key, value in found.items()}
        compare(f"model {layout.name}: {component}", shapes, expected)
        return found
    check(layout.name, component, expected, file)
    kept = set(getattr(type(skeleton), "_keep_in_fp32_modules", None) or ())
    ahead = None if kept or layout.ahead is None else layout.ahead.take(component, dtype)
    tensors = (
        read(layout.name, file, lambda key: torch.float32 if kept & {*key.split(".")} else dtype)
        if ahead is None
        else iter(ahead.items())
    )
    own = ((key, tensor.reshape(expected[key])) for key, tensor in tensors if key in expected)
    return dict(quantising.int8(own, skeleton) if packs else own)


def _fill_skeleton(skeleton: Any, found: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Fill `skeleton`, which is on the meta device, with its tensors and with the buffers that are not saved."""
    skeleton.load_state_dict(found, assign=True)
    computed = [name for name, buffer in skeleton.named_buffers() if buffer.is_meta]
    whole = dict(type(skeleton).from_config(config).named_buffers()) if computed else {}
    for name in computed:
        owner, _, last = name.rpartition(".")
        setattr(skeleton.get_submodule(owner), last, whole[name])
    for buffer in (b for name, b in skeleton.named_buffers() if b.is_floating_point() and not is_statistic(name)):
        buffer.data = buffer.data.to(dtype)
    return skeleton


LANGUAGE_MODELS = (
    "Qwen3ForCausalLM", "Qwen3Model", "Qwen3VLModel", "Qwen2_5_VLForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
)  # fmt: skip
"""Classes of transformers whose hidden states are used as text embeddings."""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# long: one message for each possible problem with a text encoder
def load_text_encoder(
    layout: Layout, tokenizer: str, encoder: str, dtype: torch.dtype, device: torch.device
) -> tuple[Any, Any]:
    """Load (tokenizer, text encoder) of the classes that the folder names, frozen. With `texts_on_disk`, accelerate
    reads each layer's weights when the layer is called.

    Raises:
        ModelError: unknown class, unreadable files, or weights missing or in a pickle.
    """
    import transformers
    from transformers.utils import logging

    if layout.file is not None:
        network = single_file.load_component(layout, encoder, dtype, ("CLIPText*", "T5Encoder*"))
        words = single_file.load_component(layout, tokenizer, dtype, trust.TOKENIZERS)
        return words, network.to(device).eval().requires_grad_(False)
    weights, variant = weight_files(layout, encoder)
    library = quantised.method(layout, encoder)
    if library is not None:
        raise ModelError(
            f"model {layout.name}: its {encoder} is quantised by {library}, which is supported "
            "only for transformers and UNets; use an unquantised one, from the original folder"
        )
    check_sizes(layout.name, encoder, layout.config(encoder), read_stored(layout.name, weights))
    named = layout.config(encoder).get("architectures") or ["CLIPTextModel"]
    first = str(named[0] if isinstance(named, list) else named)[:80]
    kind = getattr(transformers, first, None)
    if kind is None or not (first.startswith(("CLIPText", "T5Encoder")) or first in LANGUAGE_MODELS):
        known = f"CLIP's, T5's, {', '.join(LANGUAGE_MODELS)}"
        raise ModelError(f"model {layout.name}: {encoder} is a {first}; text encoders that are known: {known}")
    listed = layout.index.get(tokenizer, ["transformers", "CLIPTokenizer"])
    reader = getattr(transformers, trust.check_component(layout.name, tokenizer, listed, trust.READERS))
    if (layout.path / tokenizer / "preprocessor_config.json").is_file():
        trust.check_preprocessor_config(
            layout.name, tokenizer, layout.json(Path(tokenizer) / "preprocessor_config.json")
        )
    shown = logging.is_progress_bar_enabled()
    if layout.texts_on_disk:
        getLogger("accelerate.big_modeling").setLevel("ERROR")  # it only repeats what was requested
    logging.disable_progress_bar()  # the command line has its own; transformers' would disturb --json
    try:
        words = reader.from_pretrained(layout.path / tokenizer, local_files_only=True, trust_remote_code=False)
        network, report = with_dtype(kind, dtype).from_pretrained(
            layout.path / encoder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True,
            output_loading_info=True, trust_remote_code=False,
            device_map={"": "disk"} if layout.texts_on_disk else None,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        files = (file for part in (tokenizer, encoder) for file in sorted((layout.path / part).glob("*.json")))
        wrong = next(
            (f"{file.parent.name}/{file.name} {why}" for file in files if (why := explain_mistake(file))), None
        )
        message = wrong or f"{tokenizer} or {encoder} cannot be loaded: {_first_line(error)}"
        raise ModelError(f"model {layout.name}: {message}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model {layout.name}: {encoder} lacks {len(missing)} tensors, the first is {missing[0]}")
    network.__class__ = kind
    network = network if layout.texts_on_disk else network.to(device)
    return words, network.eval().requires_grad_(False)


def with_dtype(kind: type[Any], dtype: torch.dtype) -> type[Any]:
    """Return `kind` of transformers, changed to create its weights in `dtype` (on the meta device).

    transformers would set `dtype` as torch's default for all threads, which changes the precision of other edits that
    run at the same time.
    """
    import torch

    def made(self: Any, config: Any, *given: Any, **more: Any) -> None:
        kind.__init__(self, config, *given, **more)
        self.to(dtype)

    def context(cls: type[Any], dtype: torch.dtype, *given: Any, **more: Any) -> Any:
        return super(like, cls).get_init_context(torch.get_default_dtype(), *given, **more)

    names = {"__module__": kind.__module__, "__init__": made, "get_init_context": classmethod(context)}
    like: type[Any] = type(kind.__name__, (kind,), names)
    return like
