"""What the edits of same_bits.py need: pictures from the demonstration photographs, and tiny networks.

The networks are made by diffusers from their configurations, with random weights from fixed seeds; no module of editkit
is used, so that none of this changes with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # for tiny_latent.py, where Stable Diffusion's parts are


def pictures() -> None:
    """The pictures, masks and hints, written into the current folder."""
    import cv2
    from PIL import Image

    def crop(name: str, left: int, top: int, width: int, height: int, shrink: int) -> np.ndarray:
        whole = np.asarray(Image.open(ROOT / "assets" / "photos" / name).convert("RGB"), dtype=np.int64)
        part = whole[top : top + height * shrink, left : left + width * shrink]
        return (part.reshape(height, shrink, width, shrink, 3).sum((1, 3)) // shrink**2).astype(np.uint8)

    random = np.random.default_rng(0)
    photo, large = crop("aqueduct.jpg", 100, 60, 72, 56, 4), crop("horses.jpg", 60, 60, 112, 88, 3)
    wide = crop("meadow.jpg", 20, 20, 220, 160, 2)
    y, x = np.mgrid[0:56, 0:72]
    flat = np.full((56, 72, 3), (90, 140, 170))
    flat[(x - 30) ** 2 + (y - 26) ** 2 < 100] = (200, 60, 40)
    alpha = np.where((x - 40) ** 2 + (y - 26) ** 2 < 90, 0, 255)
    strokes = (abs(y - x // 2 - 6) < 2) | (abs(x - 50 - y // 5) < 2)
    hint = np.stack([128 + 120 * np.sin(x / 5), 128 + 120 * np.cos(y / 7), 128 + 120 * np.sin((x + y) / 9)], -1)
    saved = {
        "photo": photo, "large": large, "wide": wide, "other": crop("grass.jpg", 20, 20, 60, 48, 2),
        "small": crop("meadow.jpg", 80, 60, 24, 20, 6), "tiny": crop("seabed.jpg", 80, 60, 16, 16, 8),
        "grey": photo.astype(np.int64).sum(-1) // 3, "clear": np.dstack([photo, alpha]),
        "flat": flat + random.integers(-9, 10, flat.shape), "noisy": photo + 20 * random.standard_normal(photo.shape),
        "strokes": 255 * strokes, "soft": 255 * np.clip(1.6 - np.hypot(x - 34, y - 28) / 14, 0, 1),
        "kernel": 255 * np.eye(5), "hint": hint, "three/a": photo, "three/b": large[:40, :50],
        "three/c": photo[20:, 9:], "masks/a": 255 * strokes, "masks/b": 255 * strokes[:40, :50],
        "masks/c": 255 * strokes[20:, 9:],
        "labels/one/a": photo, "labels/one/b": large, "labels/two/c": wide, "labels/two/d": flat,
    }  # fmt: skip
    for name, values in saved.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(f"{name}.png")
    Path("held.txt").write_text("c.png\n")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save("turned.jpg", quality=90, exif=exif)
    deep = 257 * photo.astype(np.int64) + random.integers(-128, 129, photo.shape)
    cv2.imwrite("deep.png", np.clip(deep, 0, 65535).astype(np.uint16))


def models(where: Path) -> None:
    """Every network, as a folder in `where`."""
    import diffusers
    import tiny_latent as tiny
    import torch

    ddim = diffusers.DDIMScheduler.from_config(tiny.SD)
    for name, scheduler, more in (
        ("sd", ddim, {}), ("sd9", ddim, {"in_channels": 9}),
        ("v", diffusers.DDIMScheduler.from_config({**tiny.SD, "prediction_type": "v_prediction"}), {}),
        ("karras", diffusers.DPMSolverMultistepScheduler.from_config(tiny.SD, use_karras_sigmas=True), {}),
        ("lcm", diffusers.LCMScheduler.from_config(tiny.SD), {"time_cond_proj_dim": 16}),
    ):  # fmt: skip
        tiny.save_sd(where / name, scheduler, **more)
    for name, scheduler, more in (
        ("pixel", diffusers.DDIMScheduler(clip_sample=True), {}),
        ("mono", diffusers.DDPMScheduler(), {"in_channels": 1, "out_channels": 1}),
        ("learned", diffusers.DDPMScheduler(variance_type="learned_range"), {"out_channels": 6}),
        ("score", diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=10.0), {"time_embedding_type": "fourier"}),
    ):
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(**{
            "sample_size": 32, "block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 8,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 8, **more,
        })  # fmt: skip
        diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(where / name)
        scheduler.save_pretrained(where / name / "scheduler")
    large_models(where, ddim)
    upscalers(where)
    added(where)
    classifiers(where)
    copytree(ROOT / "tests" / "weights" / "shapes", where / "shapes")


def unet_xl(refiner: bool = False) -> Any:
    """Stable Diffusion XL's UNet, tiny."""
    import tiny_latent as tiny

    return tiny.unet(
        cross_attention_dim=32 if refiner else 64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=(5 if refiner else 6) * 8 + 32, transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )  # fmt: skip


def large_models(where: Path, scheduler: Any) -> None:
    """XL, its refiner, and 3."""
    import diffusers
    import tiny_latent as tiny
    import torch

    first = {"tokenizer": tiny.tokenizer(), "text_encoder": tiny.text_encoder()}
    second = {"tokenizer_2": tiny.tokenizer(), "text_encoder_2": tiny.text_encoder(projected=True)}
    rest: dict[str, Any] = {**second, "scheduler": scheduler, "vae": tiny.vae(), "add_watermarker": False}
    diffusers.StableDiffusionXLPipeline(**first, unet=unet_xl(), **rest).save_pretrained(where / "xl")
    diffusers.StableDiffusionXLImg2ImgPipeline(
        tokenizer=None, text_encoder=None, unet=unet_xl(refiner=True), requires_aesthetics_score=True, **rest
    ).save_pretrained(where / "refiner")
    torch.manual_seed(6)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=80, pooled_projection_dim=64,
        pos_embed_max_size=16,
    )  # fmt: skip
    for p in transformer.parameters():
        torch.nn.init.normal_(p, std=0.1)
    vae = tiny.vae(
        latent_channels=16, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False
    )
    diffusers.StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, tokenizer=tiny.tokenizer(), text_encoder=tiny.text_encoder(projected=True),
        tokenizer_3=None, text_encoder_3=None, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), **second
    ).save_pretrained(where / "sd3")  # fmt: skip


def upscalers(where: Path) -> None:
    """The x4 upscaler, and a network of the ESRGAN kind."""
    import diffusers
    import tiny_latent as tiny
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    vae = tiny.vae(
        block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.08333,
    )  # fmt: skip
    diffusers.StableDiffusionUpscalePipeline(
        vae=vae, unet=tiny.unet(in_channels=7, num_class_embeds=100, sample_size=16), tokenizer=tiny.tokenizer(),
        text_encoder=tiny.text_encoder(), scheduler=diffusers.DDIMScheduler.from_config(tiny.SD),
        low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    ).save_pretrained(where / "upscaler")  # fmt: skip
    torch.manual_seed(0)
    save_file(SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).state_dict(), where / "esrgan.safetensors")


def added(where: Path) -> None:
    """ControlNets whose zero convolutions are not zero, and three LoRA files."""
    import diffusers
    import tiny_latent as tiny
    import torch
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    zero = ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
    for seed, (name, unet) in enumerate([("0", tiny.unet()), ("1", tiny.unet()), ("xl", unet_xl())]):
        torch.manual_seed(seed)
        net = diffusers.ControlNetModel.from_unet(unet)
        for parameter, value in net.named_parameters():
            if parameter.startswith(zero):
                torch.nn.init.normal_(value, std=0.2)
        net.save_pretrained(where / f"control{name}")
    for seed, (name, unet) in enumerate([("a", tiny.unet()), ("b", tiny.unet()), ("xl", unet_xl())]):
        torch.manual_seed(seed)
        targets = ["to_q", "to_v", "to_out.0", "conv1", "ff.net.0.proj"]
        unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
        diffusers.StableDiffusionPipeline.save_lora_weights(where, layers, weight_name=f"{name}.safetensors")


def classifiers(where: Path) -> None:
    """An ordinary one in timm's layout, and a noise-aware one as `editkit train classifier` saves it."""
    import timm
    import torch
    from safetensors.torch import save_file

    def save(name: str, tensors: dict[str, Any], config: dict[str, Any]) -> None:
        (where / name).mkdir()
        save_file(tensors, where / name / "model.safetensors")
        (where / name / "config.json").write_text(json.dumps(config))

    torch.manual_seed(0)
    settings = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3}
    network = timm.create_model("test_resnet", pretrained=False, num_classes=3)
    config = {"architecture": "test_resnet", "label_names": list("abc"), "pretrained_cfg": settings}
    save("timm", network.state_dict(), config)
    shapes: dict[str, tuple[int, ...]] = {"stem": (8, 3, 3, 3), "embed.0": (32, 16), "embed.2": (32, 32)}
    for k, (a, b) in enumerate([(8, 8), (8, 16)]):
        block = {"norm1": (a,), "norm2": (b,), "conv1": (b, a, 3, 3), "conv2": (b, b, 3, 3), "film": (2 * b, 32)}
        shapes |= {f"blocks.{k}.{name}": shape for name, shape in block.items()}
    shapes |= {"blocks.1.skip": (16, 8, 1, 1), "norm": (16,), "head": (3, 16)}
    tensors = {f"{name}.weight": 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": 0.1 * torch.randn(shape[0]) for name, shape in shapes.items()}
    own = {"_class_name": "EditkitClassifier", "channels": 3, "size": 16, "width": 8, "stages": 2}
    save("noisy", tensors, {**own, "labels": list("abc"), "log_snr": [-30.0, 30.0]})
