"""Networks quantised by torchao or bitsandbytes, as the folder's configuration declares. diffusers loads them with that
library, which must be on a short list; its settings may only be numbers and names (`trust`).

diffusers supports bitsandbytes only on GPUs. On a CPU the weights are unpacked once into an ordinary network: it needs
as much memory as an unquantised folder, and the library need not be installed. Unpacking is a table lookup and a
product; bitsandbytes 0.50's own on a CPU is wrong if the rows of a matrix are shorter than its blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.common.process import quiet
from editkit.errors import ExtraError, ModelError, short
from editkit.models.files.layout import Layout
from editkit.models.files.weights import check_sizes, read, read_stored, weight_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KEY = "quantization_config"

BESIDE = (".weight.absmax", ".weight.quant", ".weight.nested_", ".SCB", ".weight_format")
"""Parts of the names of what bitsandbytes stores with packed weights: scales, tables and settings."""


def is_quantised(network: Any) -> bool:
    """Whether its weights are quantised (GGUF, torchao, bitsandbytes). A LoRA cannot be merged into them and is
    computed separately at every step.
    """
    return getattr(network, "hf_quantizer", None) is not None or bool(getattr(network, "is_quantized", False))


def method(layout: Layout, component: str) -> str | None:
    """Return the library that quantised a component's weights; None: not quantised."""
    named = layout.config(component).get(KEY)
    return None if named is None else str(named["quant_method"])


def check(layout: Layout, component: str, gpu: bool) -> None:
    """Check whether a quantised component can be read here, before anything is read.

    Raises:
        ExtraError: its library is not installed.
    """
    library = method(layout, component)
    if library is not None and not must_unpack(layout, component, gpu) and find_spec(library) is None:
        raise ExtraError(
            f"model {layout.name}: its {component} is quantised by {library}, which is not installed: "
            f"pip install 'editkit[{library}]'"
        )


def must_unpack(layout: Layout, component: str, gpu: bool) -> bool:
    """Whether a component's quantised weights are unpacked here."""
    return not gpu and method(layout, component) == "bitsandbytes"


def plain_numbers(layout: Layout, component: str) -> int:
    """Return how many numbers a bitsandbytes component has once unpacked: a byte of a 4-bit matrix has two."""
    tensors = {tensor.key: tensor for tensor in read_stored(layout.name, weight_files(layout, component)[0])}
    return sum(
        tensor.size * 2 if f"{key}.absmax" in tensors else math.prod(tensor.shape)
        for key, tensor in tensors.items()
        if not any(mark in key for mark in BESIDE)
    )


def load(layout: Layout, component: str, kind: type[Any], dtype: torch.dtype, device: torch.device) -> Any:
    """Load a network of class `kind` with its quantised weights; the rest in `dtype`.

    Raises:
        ExtraError: see `check`.
        ModelError: it cannot be read.
    """
    check(layout, component, device.type == "cuda")
    file, variant = weight_files(layout, component)
    sizes = {key: value for key, value in layout.config(component).items() if key != KEY}
    check_sizes(layout.name, component, sizes, read_stored(layout.name, file))
    try:
        with quiet("diffusers"):
            network, report = kind.from_pretrained(
                str(layout.path), subfolder=component, torch_dtype=dtype, variant=variant, use_safetensors=True,
                local_files_only=True, output_loading_info=True,
                device_map={"": device} if device.type == "cuda" else None,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"model {layout.name}: {component} (quantised) cannot be loaded: {reason}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model {layout.name}: {component} lacks {len(missing)} tensors, the first is {missing[0]}")
    return network.eval().requires_grad_(False)


def read_unpacked(layout: Layout, component: str, file: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Unpack the tensors that bitsandbytes quantised, in `dtype`, up to the quantisation error.

    Raises:
        ModelError: the scales or tables do not fit the weights.
    """
    import torch

    whole = dict(read(layout.name, file, lambda key: torch.float32 if any(m in key for m in BESIDE) else dtype))
    beside = {key: whole.pop(key) for key in list(whole) if any(mark in key for mark in BESIDE)}
    for key, tensor in whole.items():
        own = {name[len(key) + 1 :]: part for name, part in beside.items() if name.startswith(f"{key}.")}
        try:
            if "absmax" in own:
                whole[key] = dequantise_4bit(tensor, own).to(dtype)
            elif tensor.dtype == torch.int8:  # a row's scale is its largest value
                scale = beside[f"{key.removesuffix('.weight')}.SCB"]
                whole[key] = (tensor.float() * (scale[:, None] / 127.0)).to(dtype)
            elif tensor.dtype == torch.uint8:
                raise KeyError("absmax")
        except (ValueError, KeyError, RuntimeError, TypeError, IndexError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(f"model {layout.name}: {component}: {key} cannot be unpacked: {reason}") from error
    return whole


def dequantise_4bit(packed: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
    """Unpack a 4-bit matrix. Each byte contains two indices, the first in its upper half, into a table of 16 values
    (`quant_map`); each value is multiplied by the scale of its block (`absmax`). The scales may be quantised too, in
    bytes (Dettmers et al. 2023, arXiv:2305.14314, "double quantization").
    """
    import torch

    word = next(name for name in beside if name.startswith("quant_state."))
    state = json.loads(bytes(beside[word].tolist()))
    if packed.dtype != torch.uint8:
        raise ValueError(f"its 4-bit numbers are stored as {packed.dtype}; only torch.uint8 is supported")
    scales = beside["absmax"]
    if "nested_absmax" in beside:
        larger = _per_block(beside["nested_absmax"], state["nested_blocksize"], len(scales))
        scales = beside["nested_quant_map"][scales.int()] * larger + float(state["nested_offset"])
    count = math.prod(state["shape"])
    places = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()[:count].int()
    values = beside["quant_map"][places] * _per_block(scales, state["blocksize"], len(places))
    return values.reshape(state["shape"])


def _per_block(scales: Tensor, block: int, count: int) -> Tensor:
    """Return the block scale of each of `count` numbers, in blocks of `block`: (count,).

    Raises:
        ValueError: there are not as many scales as blocks; the file alone must not decide how much memory is needed.
    """
    if type(block) is not int or block < 1 or len(scales) != -(-count // block):
        raise ValueError(f"its blocks should have {short(block)} numbers each, but {len(scales)} scales are stored")
    return scales.repeat_interleave(block)[:count]
