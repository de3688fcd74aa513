"""8-bit quantisation of a denoiser's linear layers while its weights are read (`--quantize int8`).

It uses torchao's weight-only int8 (`Int8WeightOnlyConfig`): a row w of a matrix is stored as integers q and one scale
s = max |w| / 127.5, w ~ s q, so the error of a weight is at most s / 2. A layer computes s (q x) in the dtype of x.
Convolutions, norms, biases, and the layers that diffusers keeps in float32 are not quantised.

Each matrix is quantised before the next one is read, so the whole network is never in memory unquantised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from editkit.common.process import quiet
from editkit.errors import ExtraError, ModelError, UsageError
from editkit.models.files import overlay
from editkit.models.files.layout import Layout
from editkit.models.files.quantised import method
from editkit.models.files.weights import NUMBERS, Stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Quantize = Literal["none", "int8"]

ROW = 5
"""Bytes of a row besides its integers: a float32 scale, and a zero point, which is 0."""


def check(layout: Layout) -> None:
    """Check that the denoiser of a folder can be quantised, before its weights are read.

    Raises:
        ExtraError: torchao is not installed.
        ModelError: the denoiser is quantised already, or the model is a single file.
    """
    if find_spec("torchao") is None:
        raise ExtraError("--quantize int8 needs torchao, which is not installed: pip install 'editkit[torchao]'")
    if layout.file is not None:
        raise ModelError(
            f"--quantize int8: model {layout.name} is a single file, which diffusers reads; give its folder by "
            "--model, or leave --quantize out"
        )
    if overlay.stays_packed(layout.over):
        assert layout.over is not None
        raise ModelError(f"--quantize int8: {layout.over.name} is quantised already; leave --quantize out")
    for part in denoisers(layout) if layout.over is None else ():
        library = method(layout, part)
        if library is not None:
            raise ModelError(
                f"--quantize int8: the {part or 'network'} of model {layout.name} is quantised already, by {library}; "
                "leave --quantize out, or use the folder that it was made from"
            )


def check_numbers(dtype: torch.dtype) -> None:
    """Reject float16: a layer multiplies its input by integers up to 127 before scaling, and sums above 65504 overflow.

    Raises:
        UsageError: `dtype` is float16.
    """
    if dtype.itemsize == 2 and "bfloat" not in str(dtype):
        raise UsageError(
            "--quantize int8 and --dtype fp16 do not go together: products of 8-bit weights exceed its largest value "
            "(65504) before they are scaled; use --dtype bf16 or fp32"
        )


def denoisers(layout: Layout) -> tuple[str, ...]:
    """Return the components of a folder that are quantised."""
    return tuple(part for part in overlay.DENOISERS if layout.has(part)) if layout.index else ("",)


def int8(tensors: Iterable[tuple[str, Tensor]], skeleton: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor), with the matrices of `skeleton`'s linear layers quantised one after another."""
    import torch

    with quiet("diffusers"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    # the default also changes settings of torch's compiler and of all matrix products of this process
    how = Int8WeightOnlyConfig(set_inductor_config=False)
    kept = set(getattr(type(skeleton), "_keep_in_fp32_modules", None) or ())
    linear = {
        f"{name}.weight"
        for name, layer in skeleton.named_modules()
        if isinstance(layer, torch.nn.Linear) and not kept & {*name.split(".")}
    }
    for key, tensor in tensors:
        if key in linear:
            outputs, inputs = tensor.shape
            layer = torch.nn.Linear(inputs, outputs, bias=False, device="meta")
            layer.weight = torch.nn.Parameter(tensor, requires_grad=False)
            quantize_(layer, how)
            tensor = layer.weight
        yield key, tensor


def pop_items(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the items of a dictionary, and remove each one as it is yielded."""
    while tensors:
        yield tensors.popitem()


def size(tensors: Iterable[Stored], itemsize: int) -> int:
    """Return the bytes of a network in int8, from its file's header; other tensors take `itemsize` bytes per number.

    Every matrix named `*.weight` counts as that of a linear layer, so the few embedding tables are underestimated.
    """

    def of(one: Stored) -> int:
        if one.kind not in NUMBERS:
            return one.size
        if len(one.shape) == 2 and one.key.endswith(".weight"):
            return math.prod(one.shape) + ROW * one.shape[0]
        return itemsize * math.prod(one.shape)

    return sum(map(of, tensors))
