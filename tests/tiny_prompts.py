"""Tiny image encoders and adapters with random weights, made offline: what they prove is plumbing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, STATES = 16, 24
"""Of CLIP's embedding of a picture, and of its states by patch."""


@cache
def vision(seed: int = 7, projected: int = WIDTH) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=STATES, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=8, projection_dim=projected,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def _drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator) * (2.0 / shape[-1] ** 0.5 if len(shape) > 1 else 0.3)


def adapter(path: Path, unet: Any, seed: int = 0, kind: str = "plain", text: int | None = None) -> Path:
    """An IP-Adapter of `unet` as its authors publish it; `kind`: plain, full (all patches), or plus (a resampler)."""
    g = torch.Generator().manual_seed(seed)
    text = text or unet.config.cross_attention_dim
    state = {f"image_proj.{key}": value for key, value in PROJECTIONS[kind](g, text).items()}
    number = 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            for part in ("k", "v"):
                state[f"ip_adapter.{number}.to_{part}_ip.weight"] = _drawn(g, width, text)
            number += 2
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def _plain(g: torch.Generator, text: int) -> dict[str, Tensor]:
    return {
        "proj.weight": _drawn(g, 4 * text, WIDTH), "proj.bias": _drawn(g, 4 * text),
        "norm.weight": 1 + _drawn(g, text), "norm.bias": _drawn(g, text),
    }  # fmt: skip


def _full(g: torch.Generator, text: int) -> dict[str, Tensor]:
    return {
        "proj.0.weight": _drawn(g, STATES, STATES), "proj.0.bias": _drawn(g, STATES),
        "proj.2.weight": _drawn(g, text, STATES), "proj.2.bias": _drawn(g, text),
        "proj.3.weight": 1 + _drawn(g, text), "proj.3.bias": _drawn(g, text),
    }  # fmt: skip


def _plus(g: torch.Generator, text: int) -> dict[str, Tensor]:
    hidden = 64
    state = {
        "latents": _drawn(g, 1, 3, hidden), "proj_in.weight": _drawn(g, hidden, STATES),
        "proj_in.bias": _drawn(g, hidden), "proj_out.weight": _drawn(g, text, hidden), "proj_out.bias": _drawn(g, text),
        "norm_out.weight": 1 + _drawn(g, text), "norm_out.bias": _drawn(g, text),
    }  # fmt: skip
    for k in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            state[f"layers.{k}.{norm}.weight"] = 1 + _drawn(g, hidden)
            state[f"layers.{k}.{norm}.bias"] = _drawn(g, hidden)
        state[f"layers.{k}.0.to_q.weight"] = _drawn(g, 64, hidden)
        state[f"layers.{k}.0.to_kv.weight"] = _drawn(g, 128, hidden)
        state[f"layers.{k}.0.to_out.weight"] = _drawn(g, hidden, 64)
        state[f"layers.{k}.1.1.weight"] = _drawn(g, 4 * hidden, hidden)
        state[f"layers.{k}.1.3.weight"] = _drawn(g, hidden, 4 * hidden)
    return state


PROJECTIONS = {"plain": _plain, "full": _full, "plus": _plus}


def with_encoder(folder: Path, **given: Any) -> Path:
    """`folder` with `image_encoder` in it, where an adapter beside it finds it."""
    vision(**given).save_pretrained(folder / "image_encoder")
    return folder


def flux_adapter(path: Path, transformer: Any, seed: int = 0) -> Path:
    """An IP-Adapter of FLUX.1 as XLabs publishes it."""
    g = torch.Generator().manual_seed(seed)
    config = transformer.config
    text, inner = config.joint_attention_dim, config.num_attention_heads * config.attention_head_dim
    state = {f"ip_adapter_proj_model.{key}": value for key, value in _plain(g, text).items()}
    for k in range(config.num_layers):
        for part in "kv":
            begin = f"double_blocks.{k}.processor.ip_adapter_double_stream_{part}_proj"
            state |= {f"{begin}.weight": 4.0 * _drawn(g, inner, text), f"{begin}.bias": _drawn(g, inner)}
    save_file(state, path)
    return path


def redux(path: Path, width: int = 24) -> Any:
    """A FLUX.1 Redux saved at `path`, without text encoders; the pipeline."""
    from diffusers import FluxPriorReduxPipeline
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from tiny_flow import awake
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(6)
    config = SiglipVisionConfig(
        hidden_size=20, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    made = FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(config).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 28, "width": 28}),
        image_embedder=awake(ReduxImageEncoder(redux_dim=20, txt_in_features=width)),
    )
    made.save_pretrained(path)
    return made
