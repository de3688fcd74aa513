"""Networks of a folder whose configuration names torchao or bitsandbytes: weights in few bits, which diffusers reads by
that library, which is checked against a short list; its settings may only be numbers and names (`trust`).

diffusers lets bitsandbytes compute on GPUs alone. On a CPU its weights are unpacked once, and the network is a plain
one: it needs as much memory as a folder that was never packed, and the library need not be there. Unpacking is a table
and a product; bitsandbytes 0.50's own on a CPU is wrong where the rows of a matrix are shorter than its blocks.
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
from editkit.models.files.weights import bounded, read, stored, weight_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KEY = "quantization_config"

BESIDE = (".weight.absmax", ".weight.quant", ".weight.nested_", ".SCB", ".weight_format")
"""In names of what bitsandbytes writes beside packed weights: their scales, tables and settings."""


def quantised(network: Any) -> bool:
    """Its weights are packed in few bits (GGUF, torchao, bitsandbytes): nothing can be added to them, so that a LoRA
    stays beside them and is computed at every step.
    """
    return getattr(network, "hf_quantizer", None) is not None or bool(getattr(network, "is_quantized", False))


def method(layout: Layout, component: str) -> str | None:
    """The library that packed a component's weights; None: they are plain."""
    named = layout.config(component).get(KEY)
    return None if named is None else str(named["quant_method"])


def check(layout: Layout, component: str, gpu: bool) -> None:
    """Look whether a component that is packed can be read here, before anything is.

    Raises:
        ExtraError: its library is not installed.
    """
    library = method(layout, component)
    if library is not None and not to_unpack(layout, component, gpu) and find_spec(library) is None:
        raise ExtraError(
            f"model {layout.name}: its {component} is quantised by {library}, which is not installed: "
            f"pip install 'editkit[{library}]'"
        )


def to_unpack(layout: Layout, component: str, gpu: bool) -> bool:
    """Whether a component's packed weights become plain ones here."""
    return not gpu and method(layout, component) == "bitsandbytes"


def plain_numbers(layout: Layout, component: str) -> int:
    """How many numbers a component of bitsandbytes has once it is unpacked: two in a byte of a matrix in 4 bits."""
    tensors = {tensor.key: tensor for tensor in stored(layout.name, weight_files(layout, component)[0])}
    return sum(
        tensor.size * 2 if f"{key}.absmax" in tensors else math.prod(tensor.shape)
        for key, tensor in tensors.items()
        if not any(mark in key for mark in BESIDE)
    )


def load(layout: Layout, component: str, kind: type[Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A network of class `kind` with its packed weights; the rest of it in `dtype`.

    Raises:
        ExtraError: as `check`.
        ModelError: it cannot be read.
    """
    check(layout, component, device.type == "cuda")
    file, variant = weight_files(layout, component)
    sizes = {key: value for key, value in layout.config(component).items() if key != KEY}
    bounded(layout.name, component, sizes, stored(layout.name, file))
    try:
        with quiet("diffusers"):
            network, report = kind.from_pretrained(
                str(layout.path), subfolder=component, torch_dtype=dtype, variant=variant, use_safetensors=True,
                local_files_only=True, output_loading_info=True,
                device_map={"": device} if device.type == "cuda" else None,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, AssertionError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"model {layout.name}: {component} (quantised) cannot be loaded: {said}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model {layout.name}: {component} lacks {len(missing)} tensors, the first is {missing[0]}")
    return network.eval().requires_grad_(False)


def unpacked(layout: Layout, component: str, file: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that bitsandbytes packed, as they were but for what the packing lost, in `dtype`.

    Raises:
        ModelError: what stands beside the weights does not fit them.
    """
    import torch

    whole = dict(read(layout.name, file, lambda key: torch.float32 if any(m in key for m in BESIDE) else dtype))
    beside = {key: whole.pop(key) for key in list(whole) if any(mark in key for mark in BESIDE)}
    for key, tensor in whole.items():
        own = {name[len(key) + 1 :]: part for name, part in beside.items() if name.startswith(f"{key}.")}
        try:
            if "absmax" in own:
                whole[key] = of_four_bits(tensor, own).to(dtype)
            elif tensor.dtype == torch.int8:  # a row's scale is its largest value
                scale = beside[f"{key.removesuffix('.weight')}.SCB"]
                whole[key] = (tensor.float() * (scale[:, None] / 127.0)).to(dtype)
            elif tensor.dtype == torch.uint8:
                raise KeyError("absmax")
        except (ValueError, KeyError, RuntimeError, TypeError, IndexError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ModelError(f"model {layout.name}: {component}: {key} cannot be unpacked: {said}") from error
    return whole


def of_four_bits(packed: Tensor, beside: Mapping[str, Tensor]) -> Tensor:
    """A matrix of which a byte holds two numbers, the first in its upper half: places in a table of 16 values
    (`quant_map`), which are multiplied by the scale of their block (`absmax`); the scales may be packed likewise, in
    bytes (Dettmers et al. 2023, arXiv:2305.14314, "double quantization").
    """
    import torch

    word = next(name for name in beside if name.startswith("quant_state."))
    said = json.loads(bytes(beside[word].tolist()))
    if packed.dtype != torch.uint8:
        raise ValueError(f"its numbers of 4 bits are stored as {packed.dtype}; known is torch.uint8")
    scales = beside["absmax"]
    if "nested_absmax" in beside:
        larger = _each(beside["nested_absmax"], said["nested_blocksize"], len(scales))
        scales = beside["nested_quant_map"][scales.int()] * larger + float(said["nested_offset"])
    count = math.prod(said["shape"])
    places = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()[:count].int()
    values = beside["quant_map"][places] * _each(scales, said["blocksize"], len(places))
    return values.reshape(said["shape"])


def _each(scales: Tensor, block: int, count: int) -> Tensor:
    """Of each of `count` numbers, in blocks of `block`, its block's scale: (count,).

    Raises:
        ValueError: there are not as many scales as blocks, so that a file's word alone could ask for any memory.
    """
    if type(block) is not int or block < 1 or len(scales) != -(-count // block):
        raise ValueError(f"its blocks are said to have {short(block)} numbers, and {len(scales)} scales are stored")
    return scales.repeat_interleave(block)[:count]
