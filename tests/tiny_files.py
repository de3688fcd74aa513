"""Tiny transformers with random weights in one file, as other programs have them: original names, GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FLUX2 = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
}  # fmt: skip
FLUX2_DOUBLE = {
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale", "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale", "attn.to_out.0.weight": "img_attn.proj.weight",
    "attn.to_add_out.weight": "txt_attn.proj.weight", "ff.linear_in.weight": "img_mlp.0.weight",
    "ff.linear_out.weight": "img_mlp.2.weight", "ff_context.linear_in.weight": "txt_mlp.0.weight",
    "ff_context.linear_out.weight": "txt_mlp.2.weight",
}  # fmt: skip
FLUX2_SINGLE = {
    "attn.to_qkv_mlp_proj.weight": "linear1.weight", "attn.to_out.weight": "linear2.weight",
    "attn.norm_q.weight": "norm.query_norm.scale", "attn.norm_k.weight": "norm.key_norm.scale",
}  # fmt: skip
QKV = {"img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
       "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")}  # fmt: skip


def original_flux2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Flux2Transformer2DModel's tensors by the names of Black Forest Labs' code."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        number, _, inner = rest.partition(".")
        if part == "transformer_blocks":
            if inner in FLUX2_DOUBLE:
                found[f"double_blocks.{number}.{FLUX2_DOUBLE[inner]}"] = value
        elif part == "single_transformer_blocks":
            found[f"single_blocks.{number}.{FLUX2_SINGLE[inner]}"] = value
        elif key == "norm_out.linear.weight":
            found["final_layer.adaLN_modulation.1.weight"] = torch.cat(value.chunk(2)[::-1])
        else:
            name = next(name for name in FLUX2 if key.startswith(f"{name}."))
            found[FLUX2[name] + key.removeprefix(name)] = value
    for number in {key.split(".")[1] for key in state if key.startswith("transformer_blocks.")}:
        for theirs, ours in QKV.items():
            parts = [state[f"transformer_blocks.{number}.{name}.weight"] for name in ours]
            found[f"double_blocks.{number}.{theirs}.weight"] = torch.cat(parts)
    return found


def original_zimage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ZImageTransformer2DModel's tensors as ComfyUI's files name them."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".attention.to_" in key and not key.endswith("to_out.0.weight"):
            if ".to_q." in key:
                parts = [state[key.replace("to_q", name)] for name in ("to_q", "to_k", "to_v")]
                found["model.diffusion_model." + key.replace("to_q", "qkv")] = torch.cat(parts)
            continue
        name = key.replace("all_final_layer.2-1", "final_layer").replace("all_x_embedder.2-1", "x_embedder")
        name = name.replace("attention.to_out.0", "attention.out")
        name = name.replace("attention.norm_q", "attention.q_norm").replace("attention.norm_k", "attention.k_norm")
        found["model.diffusion_model." + name] = value
    return found


FLUX = {
    "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
}  # fmt: skip
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin", "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj", "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
}  # fmt: skip
FLUX_SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
ONE = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


def original_flux(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A FluxTransformer2DModel's tensors (one block of each kind) by the names of Black Forest Labs' code; of their
    shapes alone, since the halves of the last modulation are not exchanged.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name, _, last = key.rpartition(".")
        part, _, inner = name.partition(".0.")
        if part == "transformer_blocks":
            if inner in FLUX_DOUBLE:
                found[f"double_blocks.0.{FLUX_DOUBLE[inner]}.{last}"] = value
            elif "norm" in inner:
                found[f"double_blocks.0.{FLUX2_DOUBLE[f'{inner}.{last}']}"] = value
        elif part == "single_transformer_blocks":
            if inner in FLUX_SINGLE:
                found[f"single_blocks.0.{FLUX_SINGLE[inner]}.{last}"] = value
            elif "norm" in inner:
                found[f"single_blocks.0.{FLUX2_SINGLE[f'{inner}.{last}']}"] = value
        else:
            found[f"{FLUX[name]}.{last}"] = value
    for last in ("weight", "bias"):
        for theirs, ours in QKV.items():
            parts = [state[f"transformer_blocks.0.{name}.{last}"] for name in ours]
            found[f"double_blocks.0.{theirs}.{last}"] = torch.cat(parts)
        parts = [state[f"single_transformer_blocks.0.{name}.{last}"] for name in ONE]
        found[f"single_blocks.0.linear1.{last}"] = torch.cat(parts)
    return found


def saved(tensors: Mapping[str, Tensor], file: Path) -> Path:
    save_file({key: value.detach().clone().contiguous() for key, value in tensors.items()}, file)
    return file


def gguf(tensors: Mapping[str, Tensor], file: Path, kind: str = "Q8_0", architecture: str = "flux") -> Path:
    """`tensors` in a GGUF file: matrices whose rows are whole blocks of `kind`, the rest in F32."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants

    packing = GGMLQuantizationType[kind]
    writer = GGUFWriter(file, architecture)
    for key, value in tensors.items():
        plain = value.detach().float().numpy()
        whole = plain.ndim == 2 and plain.shape[-1] % GGML_QUANT_SIZES[packing][0] == 0
        if whole:
            writer.add_tensor(key, quants.quantize(plain, packing), raw_dtype=packing)
        else:
            writer.add_tensor(key, plain)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def unpacked(tensors: Mapping[str, Tensor], kind: str = "Q8_0") -> dict[str, Tensor]:
    """`tensors` with the errors that `gguf` of this kind brings, as diffusers unpacks it: in half precision."""
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    packing = GGMLQuantizationType[kind]
    found = {}
    for key, value in tensors.items():
        found[key] = value
        if value.ndim == 2 and value.shape[-1] % GGML_QUANT_SIZES[packing][0] == 0:
            packed = quants.quantize(value.detach().float().numpy(), packing)
            exact = torch.from_numpy(quants.dequantize(packed, packing))
            found[key] = dequantize_gguf_tensor(GGUFParameter(torch.from_numpy(packed), quant_type=packing)).float()
            found[key] = found[key].as_subclass(Tensor)
            assert float((found[key] - exact).abs().max()) <= 2**-9 * float(exact.abs().max())
    return found
