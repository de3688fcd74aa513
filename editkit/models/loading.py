"""Folders and hub ids in the layout of diffusers: finding them, reading their configuration, loading their weights.

Weights come from safetensors only: a pickle can run code when it is read. Reading the configuration imports neither
torch nor diffusers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError

if TYPE_CHECKING:
    import torch

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_FILES = ("*.json", "*.txt", "*.model", "diffusion_pytorch_model*.safetensors", "model*.safetensors")
"""What is fetched of a component: not the single-file checkpoints that lie beside the folders."""
_OTHERS = ("*.fp16.*", "*.fp16-*", "*.bf16.*", "*.non_ema.*", "*.ema_only.*")
"""Further copies of the weights."""
_IDLE = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that are not used."""
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names that checkpoints from before diffusers 0.15 have in their attention blocks; diffusers renames them itself."""


@dataclass(frozen=True)
class Layout:
    """A folder as diffusers saves it. `name` is what `--model` was given."""

    name: str
    path: Path

    @property
    def index(self) -> Mapping[str, Any]:
        """model_index.json, or an empty mapping for the folder of a single network."""
        return self.json("model_index.json") if (self.path / "model_index.json").is_file() else {}

    def has(self, component: str) -> bool:
        """True when the folder has this component, by its index or by its files."""
        listed = self.index.get(component)
        if isinstance(listed, list) and listed[0] is None:
            return False
        return listed is not None or (self.path / component).is_dir()

    def config(self, component: str = "") -> Mapping[str, Any]:
        """The configuration of a component; of the folder itself for an empty name.

        Raises:
            ModelError: the component is missing or its configuration cannot be read.
        """
        names = ["scheduler_config.json", "config.json"] if component.endswith("scheduler") else ["config.json"]
        for name in names:
            if (self.path / component / name).is_file():
                return self.json(Path(component) / name)
        raise ModelError(f"{self.name}: {Path(component) / names[0]} is missing; the model folder is incomplete")

    def json(self, file: str | Path) -> Mapping[str, Any]:
        """One file of the folder.

        Raises:
            ModelError: it cannot be read.
        """
        try:
            values = json.loads((self.path / file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.name}: {file} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise ModelError(f"{self.name}: {file} is no JSON object")
        return values


def find(name: str, *, offline: bool, weights: bool = False) -> Layout:
    """The folder of the model called `name`: a path, or `OWNER/NAME[@REVISION]` on the hub, whose files are fetched
    (`weights`: with its weights, else its configuration alone) unless `offline`.

    Raises:
        ModelError: it is nowhere; says where it was looked for.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() in PICKLES and path.is_file():
        raise ModelError(_pickled(name, path))
    if path.is_dir():
        return Layout(name, path)
    if path.is_file():
        raise ModelError(
            f"model {name} is a file; --model takes a folder in diffusers' layout or a hub id. Convert it once "
            "with diffusers: StableDiffusionPipeline.from_single_file(...).save_pretrained(FOLDER)"
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"model {name!r} was not found: there is no such folder, and it is no hub id (owner/name)")
    return Layout(name, _from_hub(name, offline, weights))


def _from_hub(name: str, offline: bool, weights: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")

    def fetch(patterns: list[str], but: tuple[str, ...] = ()) -> Path:
        return Path(
            snapshot_download(
                repo, revision=revision or None, allow_patterns=patterns, ignore_patterns=list(but),
                local_files_only=offline,
            )
        )  # fmt: skip

    try:
        path = fetch(["*.json"])
        if offline or not weights:
            return path
        parts = _parts(Layout(name, path))
        fetch([f"{part}{kind}" for part in parts for kind in _FILES], but=_OTHERS)
        for part in parts:  # a folder that has its weights in half precision alone
            if (path / part / "config.json").is_file() and not any((path / part).glob("*.safetensors")):
                fetch([f"{part}*.fp16*"])
        return path
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        where = f"no folder {name!r}, nothing in {constants.HF_HUB_CACHE}"
        if offline:
            raise ModelError(
                f"model {name!r} was not found: {where}; --offline is on, so the hub was not asked"
            ) from None
        raise ModelError(f"model {name!r} was not found: {where}, and the hub says: {_first(error)}") from error


def _parts(layout: Layout) -> list[str]:
    """The folders that are loaded, with a slash; the repository itself for a bare network."""
    listed = [part for part in layout.index if part not in _IDLE and layout.has(part) and not part.startswith("_")]
    folders = [part for part in listed if isinstance(layout.index[part], list)]
    return [f"{part}/" for part in folders] or [""]


def _pickled(name: str, file: Path) -> str:
    return (
        f"model {name}: {file.name} is a pickle, which can run code when it is read; only safetensors are loaded. If "
        f"you trust it, convert it once: diffusers' from_pretrained(..., use_safetensors=False), then save_pretrained"
    )


def weight_files(layout: Layout, component: str) -> tuple[Path, str | None]:
    """(a component's safetensors file or the index of its shards, its variant).

    Raises:
        ModelError: there are none; a pickle is named as such.
    """
    folder = layout.path / component
    stems = ("diffusion_pytorch_model", "model")
    for variant in (None, "fp16", "bf16"):
        dotted = "" if variant is None else f".{variant}"
        for stem in stems:
            for file in (f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"):
                if (folder / file).is_file():
                    return folder / file, variant
    pickles = sorted(f for f in folder.glob("*") if f.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        raise ModelError(_pickled(layout.name, pickles[0]))
    raise ModelError(f"model {layout.name}: no safetensors weights in {component or 'the folder'}")


def load_network(layout: Layout, component: str, kind: type[Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A diffusers network of class `kind` with its weights, frozen, in `dtype` and channels-last where it has images.

    Raises:
        ModelError: weights missing or misshapen (how many, and the first), or in a pickle.
    """
    import torch
    from accelerate import init_empty_weights

    file, variant = weight_files(layout, component)
    config = dict(layout.config(component))
    try:
        with init_empty_weights():
            skeleton = kind.from_config(config)
    except (TypeError, ValueError, KeyError, NotImplementedError, IndexError) as error:
        raise ModelError(
            f"model {layout.name}: no {kind.__name__} can be made of its configuration: {_first(error)}"
        ) from error
    _check(layout.name, component, {k: tuple(v.shape) for k, v in skeleton.state_dict().items()}, file)
    try:
        network = kind.from_pretrained(
            layout.path / component, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"model {layout.name}: {component or 'its network'} cannot be loaded: {_first(error)}"
        ) from error
    return network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check(name: str, component: str, expected: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Every tensor there, in its shape."""
    found = {_modern(key): shape for key, shape in shapes(name, file)}
    where = f"model {name}: {component or 'its network'}"
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ModelError(f"{where} lacks {len(missing)} of {len(expected)} tensors, the first is {missing[0]}")
    wrong = [key for key in sorted(expected) if not _same(found[key], expected[key])]
    if wrong:
        raise ModelError(
            f"{where} has {len(wrong)} tensors of another shape than its configuration says, the first is {wrong[0]}: "
            f"{found[wrong[0]]} instead of {expected[wrong[0]]}"
        )


def _same(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Equal, or a matrix that was saved as a 1x1 convolution or the other way round, as old attention blocks have."""
    return found == expected or (found[:2] == expected[:2] and {*found[2:], *expected[2:]} <= {1})


def _modern(key: str) -> str:
    parts = key.split(".")
    if "attentions" in parts and len(parts) > 2 and parts[-2] in _OLD_ATTENTION:
        parts[-2] = _OLD_ATTENTION[parts[-2]]
    return ".".join(parts)


def shapes(name: str, file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of a file or of an index's shards, from their headers alone."""
    from safetensors import SafetensorError, safe_open

    files = [file]
    if file.suffix == ".json":
        try:
            files = [file.parent / f for f in sorted(set(json.loads(file.read_text())["weight_map"].values()))]
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"model {name}: {file.name} cannot be read: {error}") from error
    for part in files:
        try:
            with safe_open(part, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a dictionary
                    yield key, tuple(tensors.get_slice(key).get_shape())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"model {name}: {part.name} is missing or damaged: {error}") from error


def load_text_encoder(
    layout: Layout, tokenizer: str, encoder: str, dtype: torch.dtype, device: torch.device
) -> tuple[Any, Any]:
    """(tokenizer, text encoder) of the classes that the folder names, frozen.

    Raises:
        ModelError: a class that is not known, files that cannot be read, weights missing or in a pickle.
    """
    import transformers
    from transformers.utils import logging

    _, variant = weight_files(layout, encoder)
    named = layout.config(encoder).get("architectures") or ["CLIPTextModel"]
    kind = getattr(transformers, str(named[0]), None)
    if kind is None or not str(named[0]).startswith(("CLIPText", "T5Encoder")):
        raise ModelError(f"model {layout.name}: {encoder} is a {named[0]}; known are CLIP and T5 text encoders")
    listed = layout.index.get(tokenizer) or ["transformers", "CLIPTokenizer"]
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the command line has its own; transformers' would be in the way of --json
    try:
        words = getattr(transformers, str(listed[1])).from_pretrained(layout.path / tokenizer, local_files_only=True)
        network, report = kind.from_pretrained(
            layout.path / encoder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"model {layout.name}: {tokenizer} or {encoder} cannot be loaded: {_first(error)}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model {layout.name}: {encoder} lacks {len(missing)} tensors, the first is {missing[0]}")
    return words, network.to(device).eval().requires_grad_(False)
