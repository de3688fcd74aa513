"""Tiny pipelines of today's flow-matching transformers with random weights, made offline."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tiny_latent
import torch
from PIL import Image
from tiny_latent import _bytes_to_unicode
from torch import Tensor

from editkit import sample
from editkit.diffusion.conditioning import Conditioning
from editkit.engine.loop import State
from editkit.plugin import Hooks, Plugin, Run, Step, TakesReferences, capability

PROMPT = "a red door"

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def awake(network: Any, seed: int = 5, gain: float = 2.0) -> Any:
    """`network` with weights under which every input matters: matrices of gain / sqrt(inputs), vectors of 0.3, the
    scales of norms 1 +- 0.3. What is initialised to zero, or so small that attention is flat, would hide a wrong
    position or a missing norm below any bound.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            r = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(r * (gain / p[0].numel() ** 0.5))
            else:
                p.copy_(1 + 0.3 * r if "norm" in name and name.endswith("weight") else 0.3 * r)
    return network.eval()


@cache
def qwen_tokenizer() -> Any:
    """Qwen 2's class over the 256 bytes, without merges, then its special tokens and a chat template."""
    from transformers import Qwen2Tokenizer

    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.json").write_text(json.dumps({w: k for k, w in enumerate(_bytes_to_unicode().values())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    made = Qwen2Tokenizer.from_pretrained(
        folder, unk_token=SPECIAL[0], eos_token=SPECIAL[0], pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[1:], model_max_length=131072,
    )  # fmt: skip
    made.chat_template = TEMPLATE
    return made


@cache
def qwen3(layers: int = 28, kind: str = "Qwen3ForCausalLM") -> Any:
    """28 layers since the 27th is read, whatever the folder says."""
    import transformers

    torch.manual_seed(1)
    config = transformers.Qwen3Config(
        vocab_size=288, hidden_size=24, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


MISTRAL_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{{ c['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)


@cache
def mistral3() -> tuple[Any, Any]:
    """(processor, text encoder); 30 layers since the 30th is read."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    torch.manual_seed(1)
    config = Mistral3Config(
        text_config={
            "model_type": "mistral", "vocab_size": 288, "hidden_size": 24, "intermediate_size": 32,
            "num_hidden_layers": 30, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12,
            "max_position_embeddings": 1024,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "head_dim": 8, "image_size": 56, "patch_size": 14,
        },
        image_token_index=268,
    )  # fmt: skip
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=deepcopy(qwen_tokenizer()), image_token="<|image_pad|>",
        image_break_token="<|video_pad|>", image_end_token="<|vision_end|>", chat_template=MISTRAL_TEMPLATE,
    )  # fmt: skip
    return processor, Mistral3ForConditionalGeneration(config).eval()


@cache
def flux2_vae() -> Any:
    """The batch norm's statistics are the latents' mean and variance: 0 and 1 would prove nothing."""
    from diffusers import AutoencoderKLFlux2

    torch.manual_seed(2)
    made = AutoencoderKLFlux2(
        sample_size=64, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=8, norm_num_groups=4,
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        made.bn.running_mean.copy_(torch.randn(32, generator=generator) * 0.3)
        made.bn.running_var.copy_(torch.rand(32, generator=generator) + 0.5)
    return made


@cache
def flux2_transformer(told: bool = False) -> Any:
    from diffusers import Flux2Transformer2DModel

    return awake(
        Flux2Transformer2DModel(
            patch_size=1, in_channels=32, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=72, timestep_guidance_channels=32, mlp_ratio=2.0,
            axes_dims_rope=(4, 4, 4, 4), rope_theta=2000, guidance_embeds=told,
        )
    )  # fmt: skip


@cache
def t5_tokenizer() -> Any:
    """T5's class over letters and a few pieces, without sentencepiece."""
    from transformers import T5TokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"-()"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in letters)]
    return T5TokenizerFast(vocab=[*pieces, ("\u2581a", -2.5), ("\u2581the", -2.5), ("ing", -2.6)], extra_ids=0)


@cache
def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(1)
    return T5EncoderModel(T5Config(vocab_size=96, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3)).eval()


@cache
def flux_vae() -> Any:
    return tiny_latent.vae(
        latent_channels=16, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False
    )


@cache
def flux_transformer(channels: int = 64, told: bool = True) -> Any:
    from diffusers import FluxTransformer2DModel

    return awake(
        FluxTransformer2DModel(
            patch_size=1, in_channels=channels, out_channels=64, num_layers=1, num_single_layers=1,
            attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=32,
            guidance_embeds=told, axes_dims_rope=(4, 4, 8),
        )
    )  # fmt: skip


@cache
def flux_controlnet(kinds: int | None = None, xlabs: bool = False) -> Any:
    """`kinds`: a union of so many; `xlabs`: with layers of its own for the hint, and no single blocks."""
    from diffusers import FluxControlNetModel

    return awake(
        FluxControlNetModel(
            patch_size=2 if xlabs else 1, in_channels=64, num_layers=2 if xlabs else 1,
            num_single_layers=0 if xlabs else 1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
            pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 4, 8), num_mode=kinds,
            conditioning_embedding_channels=16 if xlabs else None,
        ),
        seed=6,
    )  # fmt: skip


@cache
def qwen_controlnet(more: int = 0) -> Any:
    """`more`: further channels, 4 for the mask of one for inpainting."""
    from diffusers import QwenImageControlNetModel

    return awake(
        QwenImageControlNetModel(
            patch_size=2, in_channels=64, out_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, axes_dims_rope=(4, 4, 8), extra_condition_channels=more,
        ),
        seed=6,
    )  # fmt: skip


@cache
def zimage_controlnet(channels: int = 16, refiner: str | None = None) -> Any:
    """`channels`: 33 for one for inpainting, whose `refiner` is "control_noise_refiner" or "control_layers"."""
    from diffusers import ZImageControlNetModel

    return awake(
        ZImageControlNetModel(
            control_layers_places=[0, 1] if refiner else [0], control_refiner_layers_places=[0] if refiner else None,
            control_in_dim=channels, add_control_noise_refiner=refiner, dim=32, n_refiner_layers=1, n_heads=2,
            n_kv_heads=2,
        ),
        seed=6,
    )  # fmt: skip


@cache
def zimage_transformer() -> Any:
    """`awake` also sets the pad tokens, which diffusers leaves uninitialised."""
    from diffusers import ZImageTransformer2DModel

    return awake(
        ZImageTransformer2DModel(
            all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1,
            n_heads=2, n_kv_heads=2, qk_norm=True, cap_feat_dim=24, rope_theta=256.0, t_scale=1000.0,
            axes_dims=[4, 4, 8], axes_lens=[1024, 64, 64],
        )
    )  # fmt: skip


@cache
def qwen_vae(channels: int = 3) -> Any:
    from diffusers import AutoencoderKLQwenImage

    torch.manual_seed(2)
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, attn_scales=[], input_channels=channels,
        temperal_downsample=[False, True, True], latents_mean=[0.1 * k - 0.8 for k in range(16)],
        latents_std=[1.0 + 0.05 * k for k in range(16)],
    ).eval()  # fmt: skip


@cache
def qwen_transformer(fresh: bool = False, layered: bool = False) -> Any:
    """`fresh`: of the 2511 kind, whose references are told t = 0; `layered`: of -Layered."""
    from diffusers import QwenImageTransformer2DModel

    return awake(
        QwenImageTransformer2DModel(
            patch_size=2, in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, guidance_embeds=False, axes_dims_rope=(4, 4, 8), zero_cond_t=fresh,
            use_additional_t_cond=layered, use_layer3d_rope=layered,
        )
    )  # fmt: skip


@cache
def qwen_seeing() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(1)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 288, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 1000000.0},
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 24,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=268, video_token_id=269, vision_start_token_id=265, vision_end_token_id=266,
    )  # fmt: skip
    return awake(Qwen2_5_VLForConditionalGeneration(config))


@cache
def qwen_processor() -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112)
    words = qwen_tokenizer()
    return Qwen2VLProcessor(
        image_processor=images, tokenizer=words, video_processor=Qwen2VLVideoProcessor(), chat_template=TEMPLATE
    )


QWEN = {
    "shift": 1.0, "base_shift": 0.5, "max_shift": 0.9, "base_image_seq_len": 256, "max_image_seq_len": 8192,
    "shift_terminal": 0.02, "time_shift_type": "exponential",
}  # fmt: skip
FLUX = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}


def dynamic(**config: Any) -> Any:
    """A scheduler whose shift depends on the size."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, "use_dynamic_shifting": True, **config})


def picture(width: int = 64, height: int = 64, seed: int = 4) -> Image.Image:
    """A smooth picture."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((1, 3, 5, 5), generator=generator)
    x = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return Image.fromarray((x[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def mask(box: tuple[int, int, int, int], width: int = 64, height: int = 64) -> Image.Image:
    """White in the box (left, top, right, bottom)."""
    made = np.zeros((height, width), np.uint8)
    made[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(made)


def tensor(image: Image.Image) -> Tensor:
    """(1, 3, h, w) in [-1, 1]; of a mask (1, 1, h, w) in [0, 1]."""
    values = torch.from_numpy(np.asarray(image).copy()).float() / 255
    return values[None, None] if values.ndim == 2 else 2 * values.permute(2, 0, 1)[None] - 1


class Look(Plugin):
    """Shows the model pictures."""

    name: ClassVar[str] = "look"
    needs: ClassVar[frozenset[str]] = frozenset({"references"})
    order: ClassVar[int] = -60
    pictures: tuple[Any, ...] = ()

    def hooks(self) -> type[Hooks[Look]]:
        return _LookHooks


class _LookHooks(Hooks[Look]):
    def __init__(self, plugin: Look, run: Run) -> None:
        super().__init__(plugin, run)
        model = capability(run.model, TakesReferences)
        assert model is not None
        self.references = [model.refer(tensor(image)) for image in plugin.pictures]

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        for reference in self.references:
            cond = cond.plus_reference(reference)
        return cond


def walked(
    model: Any, plugins: Sequence[Plugin] = (), size: tuple[int, int] = (64, 64), **options: Any
) -> list[Tensor]:
    """The states of editkit's own walk, after each step, as diffusers would draw for it."""
    found: list[State] = []
    how = {"sampler": "euler", "seed": 5, "noise": "diffusers", "prompt": PROMPT, "device": "cpu", "steps": 4}
    sample(model, plugins, shape=(1, *model.shape(*size)), watch=found.append, **{**how, **options})
    return [state.x for state in found]


def states(pipe: Any, seed: int = 5, **given: Any) -> list[Tensor]:
    """The latents of a pipeline after each of its steps."""
    found: list[Tensor] = []

    def keep(pipe: Any, index: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        found.append(values["latents"].clone())
        return {}

    pipe.set_progress_bar_config(disable=True)
    how = {"output_type": "latent", "generator": torch.Generator().manual_seed(seed), **given}
    pipe(callback_on_step_end=keep, **how)
    return found


def plain(model: Any) -> Any:
    """`model` with its weights laid out as the pipeline has them: channels-last rounds differently."""
    for network in (model.transformer, model.vae):
        network.to(memory_format=torch.contiguous_format)
    return model


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference at any step, by the largest latent of that step."""
    assert len(found) == len(expected)
    return max(
        float((x - y).abs().max()) / max(1.0, float(y.abs().max())) for x, y in zip(found, expected, strict=True)
    )
