"""Compare a denoiser's call with 8-bit weights (--quantize int8) and with plain ones; weights are random.

    python benchmarks/int8.py --dtype fp32                    # two blocks of FLUX.2 klein 4B
    python benchmarks/int8.py --dtype bf16
    python benchmarks/int8.py --network sd15 --dtype fp32     # Stable Diffusion 1.5's UNet, 7 GB
    python benchmarks/int8.py --tiny                          # smoke test

Both run alternately in one process. The output shows how close each is to the same network in fp32 (PSNR and SNR in
dB), the size of both, and the median time in seconds. Weights come from torch's default initialisation of each layer,
so the figures show the effect of rounding on a network of this shape. Trained weights have outliers that these lack,
and may lose more.
"""

from __future__ import annotations

import argparse
import copy
import math
from typing import Any

import torch
from backends import DTYPES, alternate, as_an_edit_has_it, decibel, quickened, stable_diffusion
from torch import Tensor

KLEIN = {"num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False}
SMALL = {"num_attention_heads": 2, "attention_head_dim": 32, "axes_dims_rope": (8,) * 4, "joint_attention_dim": 48}


def klein(tiny: bool, side: int) -> tuple[Any, dict[str, Any]]:
    """Return (a network with one block of each kind at the width of FLUX.2 klein 4B, the arguments of a call).

    The call has `side` tokens per side, and 64 text tokens.
    """
    from diffusers import Flux2Transformer2DModel

    kept = {**SMALL, "guidance_embeds": False} if tiny else KLEIN
    network = Flux2Transformer2DModel(num_layers=1, num_single_layers=1, **kept)
    words, places = torch.randn(1, 64, kept["joint_attention_dim"]), torch.zeros(64, 4)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ids = torch.zeros(side * side, 4)
    ids[:, 1], ids[:, 2] = rows.flatten(), columns.flatten()
    named = {"hidden_states": torch.randn(1, side * side, network.config.in_channels), "encoder_hidden_states": words}
    return network, {**named, "timestep": torch.full((1,), 0.5), "img_ids": ids, "txt_ids": places, "guidance": None}


def in_int8(network: Any, dtype: torch.dtype) -> Any:
    """Return a frozen copy of `network`, quantised as in an edit."""
    from editkit.models.files.quantising import int8

    made = copy.deepcopy(network).to(dtype, memory_format=torch.channels_last)
    made.load_state_dict(dict(int8(made.state_dict().items(), made)), assign=True)
    made.is_quantized = True
    return quickened(made.requires_grad_(False))


def size(network: Any) -> int:
    """Return the size of the parameters in bytes."""
    parts = ((p.qdata, p.scale, p.zero_point) if hasattr(p, "qdata") else (p,) for p in network.parameters())
    return sum(tensor.numel() * tensor.element_size() for own in parts for tensor in own)


def to_mean_square(found: Tensor, expected: Tensor) -> float:
    """Return the signal-to-noise ratio in dB."""
    error = (found.float() - expected).square().mean()
    return 10 * math.log10(float(expected.square().mean() / error)) if error else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=["klein", "sd15"], default="klein")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--side", type=int, default=16, help="tokens or latents a side")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    if chosen.network == "klein":
        network, call = klein(chosen.tiny, chosen.side)
    else:
        make, call = stable_diffusion(chosen.tiny, chosen.side, 1)
        network = make()
    network, dtype = network.eval().requires_grad_(False), DTYPES[chosen.dtype]
    floats = ("sample", "hidden_states", "encoder_hidden_states")
    given = {key: value.to(dtype) if key in floats else value for key, value in call.items()} | {"return_dict": False}
    with torch.no_grad():
        expected = network(**{**call, "return_dict": False})[0]
        packed = in_int8(network, dtype)
        bytes_packed, parameters = size(packed), sum(p.numel() for p in network.parameters())
        plain = as_an_edit_has_it(network, dtype)
        print(f"{parameters / 1e6:.1f} M parameters, {dtype}, {torch.get_num_threads()} threads")
        print(f"weights: {size(plain) / 1e6:.1f} MB plain, {bytes_packed / 1e6:.1f} MB with int8")
        for name, way in {"plain": plain, "int8": packed}.items():
            out = way(**given)[0]
            print(f"to fp32: {name} PSNR {decibel(out, expected):.1f} dB, SNR {to_mean_square(out, expected):.1f} dB")
        alternate({"torch": plain, "int8": packed}, given, chosen.repeats)


if __name__ == "__main__":
    main()
