"""Tiny latent-diffusion pipelines with random weights and a real CLIP tokenizer, made offline."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SD: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False,
}  # fmt: skip
"""The scheduler configuration of Stable Diffusion 1.5, which names no spacing."""


def _bytes_to_unicode() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes (Radford et al. 2019), on which CLIP's vocabulary rests."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in kept]
    return dict(zip([*kept, *rest], map(chr, [*kept, *(256 + k for k in range(len(rest)))]), strict=True))


@cache
def tokenizer() -> Any:
    """CLIP's tokenizer from the byte-pair merges inside open_clip_torch (which is not imported)."""
    import tempfile

    from transformers import CLIPTokenizer

    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    packed = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(_bytes_to_unicode().values())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *(m.replace(" ", "") for m in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def text_encoder(width: int = 32, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=width, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def vae(**config: Any) -> Any:
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    return AutoencoderKL(**{
        "block_out_channels": (8, 8, 16, 16), "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        "sample_size": 64, **config,
    }).eval()  # fmt: skip


def unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(3)
    return UNet2DConditionModel(**{
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "norm_num_groups": 8, "attention_head_dim": 8,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32, **config,
    }).eval()  # fmt: skip


def save_sd(path: Path, scheduler: Any, **config: Any) -> Path:
    """A Stable Diffusion folder as the hub has it."""
    from diffusers import StableDiffusionPipeline

    StableDiffusionPipeline(
        vae=vae(), text_encoder=text_encoder(), tokenizer=tokenizer(), unet=unet(**config), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(path)  # fmt: skip
    return path


def picture(batch: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """(smooth pictures in [0, 1], a mask with 1 = regenerate whose edges are on no latent's)."""
    generator = torch.Generator().manual_seed(4)
    small = torch.rand((batch, 3, 5, 5), generator=generator)
    image = torch.nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)
    mask = torch.zeros(1, 1, size, size)
    mask[..., 13:43, 21:52] = 1
    return image, mask
