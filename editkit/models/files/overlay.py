"""A denoiser's weights in one file (.safetensors, .gguf) that replace those of a model folder. The folder provides
everything else: configuration, text encoders, VAE and scheduler.

The tensors may have diffusers' names or those of the original code, which diffusers' converters rename. In a .gguf
file they are packed in blocks of 32 or 256 numbers (Q4_0, Q4_K, Q8_0 ...). They stay packed in memory; diffusers
unpacks a layer's weights each time the layer is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.common.extras import explained
from editkit.common.places import expand_path
from editkit.common.process import quiet
from editkit.errors import ModelError, UsageError
from editkit.models.files.gguf_header import check_header
from editkit.models.files.layout import Layout, explain_mistake
from editkit.models.files.weights import PICKLES, Stored, compare, pickle_error, read, read_stored

if TYPE_CHECKING:
    import torch

DENOISERS = ("unet", "transformer")
"""Components whose weights a file can replace."""

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
"""Prefixes that other programs add to the names of a transformer's tensors."""

SCALED = ("scale_weight", "weight_scale", "scale_input", "input_scale", "scaled_fp8", "weight_scale_2")
"""Suffixes of names in files whose numbers of 8 bits or fewer have separate scales."""

MARKS = {"__index_timestep_zero__": "zero_cond_t"}
"""Tensors that mark a kind of network (Qwen-Image-Edit-2511), and the corresponding configuration key."""


def transformer_file(word: str) -> Path:
    """Return the file that `--transformer` names.

    Raises:
        UsageError: it does not exist.
        ModelError: it is a pickle, or of an unsupported kind.
    """
    file = expand_path(word)
    try:
        there = file.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise UsageError(f"--transformer {word[:200]}: no such file")
    if file.suffix.lower() in PICKLES:
        raise ModelError(pickle_error(word, file))
    if file.suffix.lower() not in (".safetensors", ".gguf"):
        raise ModelError(f"--transformer {file.name}: must be a .safetensors or .gguf file")
    return file


def check(layout: Layout, file: Path) -> None:
    """Check whether `file` can replace the denoiser of a folder, before any weight is loaded.

    Raises:
        ModelError: the folder has neither a transformer nor a UNet, or the file cannot be read.
    """
    if not any(layout.has(part) for part in DENOISERS):
        raise ModelError(
            f"--transformer {file.name} is laid over a model's folder in diffusers' layout with a transformer or a "
            f"UNet; --model {layout.name} is none"
        )
    if not any(True for _ in list_tensors(layout.name, file)):
        raise ModelError(f"--transformer {file.name}: contains no tensors")


def refuse_single_network(name: str, file: Path, over: Path | None) -> None:
    """Refuse a file as a complete model if it is a single network: a .gguf, or one combined with `--transformer`.

    Raises:
        ModelError: it is a single network; the message says what is missing.
    """
    if over is not None:
        raise ModelError(f"--transformer {over.name} needs a folder as the model, and --model {name} is a file")
    if file.suffix.lower() == ".gguf":
        raise ModelError(
            f"model {name} is one network in GGUF: its text encoders, VAE, scheduler and configuration are missing; "
            f"they come from a folder or a hub id of the same family: --model FOLDER --transformer {name}"
        )


def list_tensors(name: str, file: Path) -> Iterator[Stored]:
    """List the tensors of a .safetensors or .gguf file, from its header alone.

    Raises:
        ModelError: it cannot be read.
        ExtraError: it is a .gguf file and the package `gguf` is not installed.
    """
    if not stays_packed(file):
        yield from read_stored(name, file)
        return
    for tensor in _open_gguf(name, file).tensors:
        kind, shape = tensor.tensor_type.name, tuple(int(side) for side in reversed(tensor.shape))
        yield Stored(tensor.name, shape, kind if kind in ("F32", "F16") else f"gguf {kind}", int(tensor.n_bytes))


def _open_gguf(name: str, file: Path) -> Any:
    """Check the header of a .gguf file, and open it with the package `gguf`, which maps it into memory.

    Raises:
        ModelError: it cannot be read.
    """
    with explained():
        from gguf import GGUFReader
    try:
        check_header(file)
        return GGUFReader(file)
    except Exception as error:  # its reader has no common error class for damaged files
        reason = " ".join(str(error).split())[:160]
        why = explain_mistake(file) or f"is damaged or not a GGUF file ({reason}); download it again"
        raise ModelError(f"model {name}: {file.name} {why}") from error


def tensors(layout: Layout, config: Mapping[str, Any], skeleton: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return the tensors of `layout.over` by diffusers' names, with the names and shapes of `skeleton` (on the meta
    device), in `dtype` or packed.

    Raises:
        ModelError: the file is of another family or size than the folder.
    """
    assert layout.over is not None
    file = layout.over
    where = f"--transformer {file.name} does not fit model {layout.name}"
    names = [tensor.key for tensor in list_tensors(layout.name, file)]
    odd = next((name for name in names if name.endswith(SCALED)), None)
    if odd is not None:
        raise ModelError(
            f"--transformer {file.name}: has numbers with separate scales ({odd[:80]}), like ComfyUI's fp8_scaled "
            "files; these are not supported: use a .gguf file, or one in bf16"
        )
    given = _read_packed(file) if stays_packed(file) else dict(read(layout.name, file, lambda _: dtype))
    expected = {key: tuple(value.shape) for key, value in skeleton.state_dict().items()}
    try:
        found = _rename_tensors(type(skeleton).__name__, given, config, expected)
    except (KeyError, ValueError, IndexError, RuntimeError, AttributeError, TypeError) as error:
        first = next(iter(names), "nothing")
        raise ModelError(
            f"{where}: its tensors are not those of a {type(skeleton).__name__} (the first is {first[:80]}); is it of "
            "another family?"
        ) from error
    compare(where, {key: _shape(value) for key, value in found.items()}, expected)
    _check_more(where, found.keys() - expected.keys(), config)
    return {key: found[key] for key in expected}


def _check_more(where: str, more: Set[str], config: Mapping[str, Any]) -> None:
    """Refuse tensors that the folder's network does not have: it is a smaller or a different network. If a tensor marks
    a kind of network, the configuration must declare that kind too.
    """
    unsaid = next((mark for mark in MARKS if mark in more and not config.get(MARKS[mark])), None)
    if unsaid is not None:
        raise ModelError(f"{where}: its kind needs a folder whose configuration has {MARKS[unsaid]}; use that")
    left = sorted(more - MARKS.keys())
    if left:
        raise ModelError(
            f"{where}: it has {len(left)} tensors that the folder's network does not have, first {left[0][:80]}; "
            "is it of another size?"
        )


def _rename_tensors(
    kind: str, tensors: dict[str, Any], config: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Rename `tensors` to diffusers' names."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    convert = SINGLE_FILE_LOADABLE_CLASSES[kind]["checkpoint_mapping_fn"]
    if convert is convert_ldm_unet_checkpoint:  # it finds the UNet of a complete model by its prefix
        if expected.keys() <= tensors.keys():
            return tensors
        return dict(convert(tensors, config=config))
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    known = expected.keys() <= tensors.keys() or tensors.keys() <= expected.keys()
    return tensors if known else dict(convert(checkpoint=tensors, config=config))


def _read_packed(file: Path) -> dict[str, Any]:
    """Read the tensors of a .gguf file; packed ones as diffusers' own parameters."""
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    try:
        return dict(load_gguf_checkpoint(str(file)))
    except ValueError as error:
        raise ModelError(f"--transformer {file.name}: {str(error).splitlines()[0]}") from error


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(getattr(tensor, "quant_shape", tensor.shape))


def stays_packed(file: Path | None) -> bool:
    """Whether its weights stay packed during computation."""
    return file is not None and file.suffix.lower() == ".gguf"


def unpacking_network(
    layout: Layout, component: str, skeleton: Any, found: Mapping[str, Any], dtype: torch.dtype
) -> Any:
    """Build a network like `skeleton` that unpacks `found`, the tensors of a .gguf file, as it computes.

    diffusers has such layers only for matrices; other packed tensors are unpacked here.
    """
    import torch
    from diffusers import GGUFQuantizationConfig
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    linear = {f"{name}.weight" for name, layer in skeleton.named_modules() if isinstance(layer, torch.nn.Linear)}
    whole = {
        key: dequantize_gguf_tensor(value).to(dtype) if hasattr(value, "quant_type") and key not in linear else value
        for key, value in found.items()
    }
    with quiet("diffusers"):
        return type(skeleton).from_single_file(
            whole, config=str(layout.path), subfolder=component, torch_dtype=dtype, local_files_only=True,
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
        )  # fmt: skip
