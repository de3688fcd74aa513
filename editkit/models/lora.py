"""LoRA files: check them, and add them to a model's networks with diffusers and peft."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from editkit.common import trust
from editkit.common.places import expand_path
from editkit.common.process import quiet
from editkit.common.spec import number
from editkit.errors import ModelError, UsageError, short
from editkit.models.files.loading import is_valid_file_name
from editkit.models.files.quantised import is_quantised
from editkit.models.files.weights import shapes

__all__ = ["add", "check_readable", "is_lora", "lora_and_weight"]

DOWN = ("lora_down.", "lora_A.", "lora.down.", "lora_linear_layer.down.")
"""Parts of the name of the first matrix of each pair."""

OTHER_KINDS = {
    "hada_w1": "a LoHa (LyCORIS)", "lokr_w": "a LoKr (LyCORIS)", "lora_mid": "a LoCon in Tucker's form (LyCORIS)",
    "oft_": "an OFT (LyCORIS)", "boft_": "a BOFT", "glora_": "a GLoRA", "ia3_": "an IA3",
    "on_input": "an IA3 (LyCORIS)",
    ".diff": "whole weights' differences (LyCORIS full)", "emb_params": "a textual inversion",
    "clip_l": "a textual inversion", "down_blocks.0.resnets.0.conv1.weight": "a whole UNet",
    "model.diffusion_model": "a whole checkpoint",
}  # fmt: skip
"""Parts of tensor names in other kinds of files that are mistaken for a LoRA."""

PEFT = "lora_adapter_metadata"
"""The key under which diffusers' files keep peft's configuration."""

NAME = re.compile(r"[\w.:/@ -]*")
"""Names that match themselves as regular expressions."""

SIZES = re.compile(r"size mismatch for (\S+?)\.lora_[AB]\S* copying .*?Size\(\[([\d, ]+)\]\).*?Size\(\[([\d, ]+)\]\)")
"""torch's words for a matrix of another size: layer, its size in the file, the size that is needed."""

PAIRS = ("lora_down", "lora_up", "lora_A", "lora_B", "lora.down")
"""Parts of the tensor names of a plain LoRA."""


def lora_and_weight(word: str) -> tuple[Path, float]:
    """Split `FILE[:weight]` into the file and the weight (default 1).

    Raises:
        UsageError: the weight is not a number.
    """
    name, colon, weight = word.rpartition(":")
    if not colon or "/" in weight or weight.lower().endswith(".safetensors"):
        return expand_path(word), 1.0
    return expand_path(name), number(weight, f"--lora {word}: the weight")


def check_readable(word: str) -> tuple[Path, float]:
    """Like `lora_and_weight`, and check that the file exists and is not a pickle."""
    file, weight = lora_and_weight(word)
    if not is_valid_file_name(str(file)) or not file.is_file():
        raise UsageError(f"--lora {word}: there is no such file")
    if file.suffix.lower() != ".safetensors":
        raise ModelError(f"--lora {file.name}: LoRAs must be .safetensors files; a pickle can run code")
    return file, weight


def add(pipe: Any, name: str, words: Sequence[str]) -> list[str]:
    """Fuse every file with its weight into the networks' weights, so that steps cost the same as before; quantised
    weights keep the LoRA separate. `pipe` is the diffusers pipeline of the model called `name`. Returns notices about
    files that fit only in part.

    Raises:
        ModelError: the family supports no LoRA, or a file does not fit.
        UsageError: a file does not exist.
    """
    import torch

    from editkit.models.fast.packing import swap, unpack

    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(
            f"--lora: model {name} is of a family without LoRA support in diffusers ({type(pipe).__name__}); leave it "
            "out, or choose another --model: FLUX.1, FLUX.2, Z-Image, Qwen-Image, Chroma, Krea 2, Stable Diffusion"
        )
    networks: list[Any] = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    if any(network.device.type == "meta" for network in networks):
        raise ModelError(
            f"--lora is added to all networks of model {name}, and memory is too small for its text encoders; what "
            f"helps: --dtype bf16, closing other programs"
        )
    packed = [layer for network in networks for layer in unpack(network)]  # peft replaces these layers by its own
    try:
        with torch.no_grad(), quiet("diffusers"):
            weights = [_load_lora(pipe, f"lora{k}", name, word) for k, word in enumerate(words)]
            ignored = [line for k, word in enumerate(words) for line in _ignored_layers(pipe, f"lora{k}", name, word)]
            pipe.set_adapters([f"lora{k}" for k in range(len(words))], weights)
            there = {part: getattr(pipe, part, None) for part in pipe._lora_loadable_modules}
            whole = [part for part, network in there.items() if network is not None and not is_quantised(network)]
            if whole:
                pipe.fuse_lora(components=whole)
            if not any(is_quantised(network) for network in there.values()):
                pipe.unload_lora_weights()
    finally:
        for layer, kind in packed:
            swap(layer, kind)
    return ignored


def _ignored_layers(pipe: Any, adapter: str, name: str, word: str) -> Iterator[str]:
    """Yield a notice if a file has matrices for layers that the networks do not have; diffusers ignores them."""
    import torch

    file, _ = lora_and_weight(word)
    pairs = sum(any(mark in key for mark in DOWN) for key, _ in shapes(file.name, file))
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    there = sum(adapter in getattr(layer, "lora_A", ()) for network in networks for layer in network.modules())
    if there < pairs:
        left = f"{pairs - there} of its {pairs} layers are not in the model"
        yield f"--lora {file.name} fits model {name} in part: {left}"


def is_lora(name: str) -> bool:
    """Whether `name` is a file with the tensors of a LoRA; reads only its header."""
    file = expand_path(name)
    if not is_valid_file_name(str(file)) or not file.is_file() or file.suffix.lower() != ".safetensors":
        return False
    try:
        return any(mark in key for key, _ in shapes(name, file) for mark in PAIRS)
    except ModelError:
        return False


def _check_kind(file: Path) -> None:
    """Refuse a file that is not a LoRA.

    Raises:
        ModelError: it is something else (the message says what), or cannot be read.
    """
    try:
        keys = [key for key, _ in shapes("", file)]
    except ModelError as error:
        raise ModelError(f"--lora {str(error).removeprefix('model : ')}") from error
    pairs = any(mark in key for key in keys for mark in PAIRS)
    for mark, what in OTHER_KINDS.items():
        found = [key for key in keys if mark in key]
        if found and (mark == "lora_mid" or not pairs):
            raise ModelError(
                f"--lora {file.name}: is {what}, by its tensor {found[0][:80]}; only plain LoRA files (lora_down "
                "and lora_up, or lora_A and lora_B) are supported"
            )


def _check_words(file: Path) -> None:
    """Refuse a LoRA whose layer names are not plain: peft uses them as regular expressions, and untrusted ones may
    never finish.

    Raises:
        ModelError: a name is not plain; the message has the first.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            keys, peft = list(tensors.keys()), (tensors.metadata() or {}).get(PEFT, "{}")
            metadata = json.loads(peft)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise ModelError(f"--lora {file.name}: what it says of itself cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise ModelError(f"--lora {file.name}: what it says of itself is not a JSON object")
    trust.check_network_config(file.name, PEFT, metadata)
    most = max((side for _, shape in shapes(file.name, file) for side in shape), default=0)
    for key, rank in _ranks(metadata):
        if not isinstance(rank, int) or rank > most:
            raise ModelError(
                f"--lora {file.name}: says {short(key)} = {short(rank)}, and its tensors' largest side is {most}"
            )
    left: list[Any] = [*keys, metadata]
    while left:
        match left.pop():
            case str() as word if not NAME.fullmatch(word):
                raise ModelError(f"--lora {file.name}: {short(word)} is not a plain name of a layer, and is not read")
            case list() as several:
                left += several
            case dict() as keyed:
                left += [*keyed, *keyed.values()]


def _ranks(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the ranks in peft's configuration: peft allocates matrices of that many rows before loading the file."""
    for key, value in metadata.items():
        last = str(key).rpartition(".")[2]
        if last == "r" and value is not None:
            yield key, value
        elif last == "rank_pattern" and isinstance(value, dict):
            yield from value.items()


@contextmanager
def _lower_case(file: Path) -> Iterator[Path]:
    """Provide `file` under a name that ends in .safetensors; diffusers takes other suffixes for pickles."""
    if file.suffix == ".safetensors":
        yield file
        return
    with TemporaryDirectory() as folder:
        there = Path(folder) / "lora.safetensors"
        try:
            there.symlink_to(file.resolve())
        except OSError:
            shutil.copyfile(file, there)
        yield there


def _load_lora(pipe: Any, adapter: str, name: str, word: str) -> float:
    """Load one file into the pipeline of the model called `name`; return its weight."""
    from safetensors import SafetensorError

    file, weight = check_readable(word)
    _check_kind(file)
    _check_words(file)
    try:
        with _lower_case(file) as lower:
            pipe.load_lora_weights(
                str(lower.parent), adapter_name=adapter, weight_name=lower.name, local_files_only=True
            )
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError, AttributeError) as error:
        raise ModelError(f"--lora {file.name} does not fit model {name}: {_misfit(error)}") from error
    if not any(adapter in names for names in pipe.get_list_adapters().values()):
        raise ModelError(
            f"--lora {file.name} does not fit model {name}: it has no weights for any of its networks; choose a LoRA "
            f"that was trained for this model"
        )
    return weight


def _misfit(error: Exception) -> str:
    """Return what a library says of a LoRA that does not fit, in one line; of many matrices the first."""
    text = " ".join(str(error).split()) or type(error).__name__
    found = SIZES.search(text)
    if found is None:
        return text.removesuffix(":")[:300]
    layer, theirs, here = found.groups()
    return (
        f"its matrix for {layer} has {theirs.replace(', ', ' x ')} values, and {here.replace(', ', ' x ')} are needed; "
        f"choose a LoRA that was trained for this model"
    )
