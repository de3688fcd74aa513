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


def unclip(scheduler: Any) -> Any:
    """A tiny StableUnCLIPImg2ImgPipeline."""
    import tiny_latent as tiny
    from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import CLIPImageProcessor

    normalizer, g = StableUnCLIPImageNormalizer(embedding_dim=WIDTH), torch.Generator().manual_seed(3)
    with torch.no_grad():
        normalizer.mean.copy_(0.3 * torch.randn(1, WIDTH, generator=g))
        normalizer.std.copy_(0.5 + torch.rand(1, WIDTH, generator=g))
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32), image_encoder=vision(),
        image_normalizer=normalizer, image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=tiny.tokenizer(), text_encoder=tiny.text_encoder(),
        unet=tiny.unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH),
        scheduler=scheduler, vae=tiny.vae(),
    )  # fmt: skip


def clip(path: Path, width: int = WIDTH) -> Path:
    """A whole CLIP with its tokenizer."""
    import tiny_latent as tiny
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(4)
    config = CLIPConfig(
        text_config={
            "vocab_size": 49408, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
            "projection_dim": width,
        },
        vision_config={
            "hidden_size": STATES, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8, "projection_dim": width,
        },
        projection_dim=width,
    )  # fmt: skip
    CLIPModel(config).eval().save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def embedded_texts(path: str, texts: list[str]) -> Tensor:
    """(texts, width), by transformers alone."""
    from transformers import CLIPModel, CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(path)(texts, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        made = CLIPModel.from_pretrained(path).get_text_features(**words)
    made = made if isinstance(made, Tensor) else made.pooler_output
    return made.double()


def kandinsky(scheduler: Any) -> Any:
    """A tiny KandinskyV22Pipeline; two pixels a side of one latent."""
    from diffusers import KandinskyV22Pipeline, UNet2DConditionModel, VQModel

    torch.manual_seed(3)
    unet = UNet2DConditionModel(
        in_channels=4, out_channels=8, addition_embed_type="image", block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), encoder_hid_dim=WIDTH,
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), cross_attention_dim=32,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", encoder_hid_dim_type="image_proj", attention_head_dim=4,
        resnet_time_scale_shift="scale_shift", sample_size=32, norm_num_groups=8,
    )  # fmt: skip
    movq = VQModel(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        latent_channels=4, layers_per_block=1, norm_num_groups=8, norm_type="spatial", num_vq_embeddings=12,
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), vq_embed_dim=4,
    )  # fmt: skip
    return KandinskyV22Pipeline(unet=unet.eval(), scheduler=scheduler, movq=movq.eval())


def kandinsky_prior() -> Any:
    """A tiny KandinskyV22PriorPipeline, whose encoders are CLIP's two towers."""
    import tiny_latent as tiny
    from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler
    from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(2)
    words = CLIPTextConfig(
        vocab_size=49408, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=WIDTH, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    return KandinskyV22PriorPipeline(
        prior=PriorTransformer(num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1).eval(),
        image_encoder=vision(), text_encoder=CLIPTextModelWithProjection(words).eval(), tokenizer=tiny.tokenizer(),
        scheduler=UnCLIPScheduler(), image_processor=CLIPImageProcessor(size=32, crop_size=32),
    )  # fmt: skip
