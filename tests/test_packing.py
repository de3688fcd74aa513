"""Packed convolutions are the plain ones: results, gradients, weights, conversions."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from editkit.models.packing import Packed, pack


def convolutions(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(5, 16, 3, padding=1), nn.Conv2d(16, 16, 3, stride=2), nn.Conv2d(16, 8, 1),
        nn.Conv2d(8, 8, 3, groups=2),
    )  # fmt: skip
    plain = made.to(dtype, memory_format=torch.channels_last).requires_grad_(False)
    return plain, pack(deepcopy(plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@torch.no_grad()
def test_packed_is_plain(dtype: torch.dtype, layout: torch.memory_format) -> None:
    plain, packed = convolutions(dtype)
    assert all(type(conv) is Packed for conv in packed)
    for size in (16, 24):  # other sizes than those it was packed for
        x = torch.randn(2, 5, size, size).to(dtype, memory_format=layout)
        for _ in range(2):
            tolerance = 1e-6 if dtype == torch.float32 else 8e-3
            assert torch.allclose(plain(x).float(), packed(x).float(), rtol=0, atol=tolerance)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(plain, packed, strict=True))


def test_gradients_before_and_after_packing() -> None:
    plain, packed = convolutions(torch.float32)
    x = torch.randn(1, 5, 16, 16)

    def gradient(network: nn.Module) -> torch.Tensor:
        at = x.clone().requires_grad_()
        return torch.autograd.grad(network(at).square().sum(), at)[0]

    expected = gradient(plain)
    assert torch.allclose(gradient(packed), expected, atol=1e-5)
    with torch.inference_mode():
        packed(x)
    assert torch.allclose(gradient(packed), expected, atol=1e-5)


def test_a_packed_network_can_be_converted() -> None:
    plain, packed = convolutions(torch.bfloat16)
    x = torch.randn(1, 5, 16, 16)
    with torch.no_grad():
        packed(x.bfloat16())
        assert torch.allclose(plain.float()(x), packed.float()(x), atol=1e-6)
    assert all(type(conv) is nn.Conv2d for conv in packed)
