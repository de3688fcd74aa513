"""A UNet's quickened blocks are diffusers' blocks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import tiny_latent as tiny
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from test_parity_latent import adapter
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning
from editkit.models.fast.blocks import Attend, ChannelsLast, attends_once, replace_blocks
from editkit.models.fast.packing import pack

TEXT_FIRST: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def call(unet: Any, x: Tensor, words: Tensor, **more: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = unet(x, 500, encoder_hidden_states=words, return_dict=False, **more)[0]
    return out


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("heads", [8, 3])
def test_quickened_is_plain(linear: bool, heads: int) -> None:
    channels = (24, 48) if heads == 3 else (32, 64)
    plain = tiny.unet(use_linear_projection=linear, attention_head_dim=heads, block_out_channels=channels)
    plain = plain.requires_grad_(False).to(memory_format=torch.channels_last)
    quick = pack(replace_blocks(deepcopy(plain)))
    x, words = torch.randn(3, 4, 16, 8), torch.randn(3, 7, 32)
    expected = call(plain, x, words)
    assert torch.allclose(call(quick, x, words), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    assert any(type(module) is ChannelsLast for module in quick.modules())
    assert all(isinstance(processor, Attend) for processor in quick.attn_processors.values())


def test_pictures_stay_channels_last() -> None:
    unet = replace_blocks(tiny.unet()).to(memory_format=torch.channels_last)
    seen: list[bool] = []
    for module in unet.modules():
        if isinstance(module, ChannelsLast):
            module.proj_out.register_forward_pre_hook(
                lambda _, given: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
            )
    call(unet, torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32))
    assert seen
    assert all(seen)


def test_copies_are_looked_at_once() -> None:
    unet = replace_blocks(tiny.unet(**TEXT_FIRST))
    assert attends_once(unet)
    assert not attends_once(replace_blocks(tiny.unet()))
    rows: list[int] = []
    attn1 = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    attn1.to_q.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    x, words = torch.randn(2, 4, 8, 8).repeat(3, 1, 1, 1), torch.randn(6, 7, 32)
    expected = call(unet, x, words)
    again = call(unet, x, words, cross_attention_kwargs={"copies": 3})
    assert torch.allclose(again, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    assert rows == [6, 2]


@pytest.mark.parametrize("odd", [{"norm_num_groups": 4}, {"qk_norm": "layer_norm"}, {"residual_connection": True}])
def test_other_attention_goes_diffusers_way(odd: dict[str, Any]) -> None:
    torch.manual_seed(0)
    attention = Attention(16, heads=2, dim_head=8, **odd)
    x = torch.randn(2, 9, 16)
    with torch.no_grad():
        attention.set_processor(AttnProcessor2_0())
        expected = attention(x)
        attention.set_processor(Attend())
        assert torch.equal(attention(x), expected)


def test_a_text_with_a_mask_goes_diffusers_way() -> None:
    plain, quick = tiny.unet(), replace_blocks(tiny.unet())
    x, words, mask = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.bool)
    mask[:, 4:] = False
    masked = call(quick, x, words, encoder_attention_mask=mask)
    assert torch.allclose(masked, call(plain, x, words, encoder_attention_mask=mask), atol=1e-6)
    assert not torch.allclose(masked, call(quick, x, words), atol=1e-3)


def test_guidance_looks_at_one_picture_once() -> None:
    plain = adapter(4, tiny.SD, unet=tiny.unet(**TEXT_FIRST))
    quick = adapter(4, tiny.SD, unet=replace_blocks(tiny.unet(**TEXT_FIRST)))
    rows: list[int] = []
    attn1 = quick.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    attn1.to_q.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    conds = [Conditioning(prompt=quick.encode_text(text)[0]) for text in ("", "a barn", "a barn at night")]
    x_t, level = torch.randn(2, 4, 8, 8), plain.schedule.level(500)
    with torch.no_grad():
        for some in (conds, conds[:1], conds[:2]):
            for ours, theirs in zip(quick(x_t, level, some), plain(x_t, level, some), strict=True):
                assert torch.allclose(ours.eps, theirs.eps, atol=1e-5)
    assert rows == [2, 2, 2]
