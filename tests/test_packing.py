"""Packed convolutions are the plain ones: results, gradients, weights, conversions."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import nn

from editkit.models.fast.blocks import fuse_gates
from editkit.models.fast.packing import Packed, PackedGate, pack


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
    """As near to float64's as four layers round, whatever kernels a processor has for either."""
    plain, packed = convolutions(dtype)
    exact = deepcopy(plain).double()
    assert all(type(conv) is Packed for conv in packed)
    for size in (16, 24):  # other sizes than those it was packed for
        x = torch.randn(2, 5, size, size).to(dtype, memory_format=layout)
        expected = exact(x.double())
        most = 8 * torch.finfo(dtype).eps * float(expected.abs().max())
        for _ in range(2):
            assert all(float((made(x).double() - expected).abs().max()) <= most for made in (plain, packed))
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


def gate(dtype: torch.dtype, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    plain = nn.Sequential(GEGLU(24, 40, bias=bias)).to(dtype).requires_grad_(False)
    return plain, fuse_gates(deepcopy(plain))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
@torch.no_grad()
def test_a_fused_gate_is_a_times_gelu_of_b(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    plain, fused = gate(dtype, bias)
    exact = deepcopy(plain).double()
    for shape in ((2, 64, 24), (1, 7, 24), (3, 24)):  # other numbers of rows than it was packed for
        x = torch.randn(shape).to(dtype)
        expected = exact(x.double())
        errors = [(network(x).double() - expected).abs() for network in (plain, fused)]
        assert float(errors[1].max()) <= tolerance * float(expected.abs().max())
        if dtype == torch.bfloat16:
            assert float(errors[1].mean()) < float(errors[0].mean())
    assert isinstance(fused[0].proj, PackedGate)
    assert fused[0].proj.blocks is not None
    assert torch.equal(fused[0].proj.weight, plain[0].proj.weight)


def test_a_fused_gate_has_gradients_and_can_be_converted() -> None:
    plain, fused = gate(torch.float32)
    x = torch.randn(5, 24)
    with torch.inference_mode():
        fused(x)

    def gradient(network: nn.Module) -> torch.Tensor:
        at = x.clone().requires_grad_()
        return torch.autograd.grad(network(at).square().sum(), at)[0]

    assert torch.allclose(gradient(fused), gradient(plain), atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(fused.double()(x.double()), plain.double()(x.double()), atol=1e-12)
    assert type(fused[0].proj) is nn.Linear
