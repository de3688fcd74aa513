"""What training is made of: the residual, the weights of its loss, masks and conditions, fast operations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_training import TINY, generator

from editkit.models.pocket.residual import EXACT, PRIOR, ROUGH, Residual, depth, deviation, luma
from editkit.pictures.filling import smooth_fill
from editkit.training import diffusion
from editkit.training.conditions import SHARES, blur, draw_conditions, inpaint_condition, simulate_coarse_estimate
from editkit.training.draws import Draws, split_count
from editkit.training.fast import use_fast_operations
from editkit.training.masks import random_masks
from editkit.training.network import Pocket, export, load
from editkit.training.settings import Architecture

pytestmark = pytest.mark.slow


def draws(*key: int) -> Draws:
    return Draws(key or (0,), torch.device("cpu"))


def test_colour_on_a_given_luma_keeps_that_luma() -> None:
    from editkit.training.report import chroma_error, with_luma

    x0, other = torch.rand((2, 3, 4, 3, 8, 8), generator=generator())
    mixed = with_luma(other, luma(x0))
    torch.testing.assert_close(luma(mixed), luma(x0))
    assert chroma_error(mixed, other) < 1e-6


def test_exported_folder_is_read_by_diffusers_and_by_load(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    made = Pocket(TINY)
    export(tmp_path, TINY, dict(made.unet.state_dict()))
    theirs = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", torch_dtype=torch.float32)
    scheduler = DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    alpha, _ = diffusion.tables()
    torch.testing.assert_close(scheduler.alphas_cumprod.sqrt(), alpha)
    x_t, condition = torch.randn((2, 4, 3, 16, 16), generator=generator())
    told = (torch.tensor([3, 400, 999, 0]), torch.arange(4), condition, torch.ones(4, 1, 16, 16))
    with torch.no_grad():
        v = load(tmp_path)(x_t, *told)
        torch.testing.assert_close(Pocket(TINY, theirs)(x_t, *told), v)
        torch.testing.assert_close(made(x_t, *told), v, atol=2e-2, rtol=2e-2)
    wiring = json.loads((tmp_path / "pocket.json").read_text())
    assert wiring["tasks"] == {"prior": 0, "inpaint": 1, "upscale": 2, "colorize": 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_faster_operations_give_the_same_values_and_gradients(dtype: torch.dtype) -> None:
    architecture = Architecture(window=64, channels=(16, 32), head=16, groups=8)
    x_t, condition = torch.randn((2, 2, 3, 64, 64), generator=generator())
    told = (torch.tensor([10, 700]), torch.tensor([1, 2]), condition, torch.ones(2, 1, 64, 64))
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for fast in (False, True):
        torch.manual_seed(0)
        net = Pocket(architecture)
        if fast:
            use_fast_operations(net.unet)
        net.unet.to(dtype=dtype, memory_format=torch.channels_last)
        v = net(x_t, *told)
        v.square().mean().backward()
        found.append((v.detach(), {n: p.grad.float() for n, p in net.named_parameters() if p.grad is not None}))
    (v, slow), (w, quick) = found
    bound = 1e-4 if dtype == torch.float32 else 0.1
    assert (v - w).norm() < bound * v.norm()
    assert slow.keys() == quick.keys()
    whole = torch.cat([g.flatten() for g in slow.values()])
    other = torch.cat([g.flatten() for g in quick.values()])
    assert (whole - other).norm() < bound * whole.norm()


def test_sampler_on_an_exact_gaussian() -> None:
    mean, deviation = 0.2, 0.15

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = (diffusion.gather_levels(z, t) for z in diffusion.tables())
        return mean + alpha_t * deviation**2 / (alpha_t**2 * deviation**2 + sigma_t**2) * (x_t - alpha_t * mean)

    for eta in (0.0, 1.0):
        x0 = diffusion.sample(predict, (64, 1, 16, 16), 500, generator(), eta)
        assert abs(float(x0.mean()) - mean) < 0.01
        assert abs(float(x0.std()) - deviation) < 0.01


def _residual() -> tuple[Residual, Tensor, Tensor, Tensor]:
    """A residual at four levels, x0, eps and x_t."""
    c, x0, eps = torch.randn((3, 4, 3, 8, 8), generator=generator())
    s = 0.01 + torch.rand((4, 1, 8, 8), generator=generator())
    alpha_t, sigma_t = (diffusion.gather_levels(z, torch.tensor([0, 300, 700, 999])) for z in diffusion.tables())
    return Residual(c, s, alpha_t, sigma_t), x0, eps, alpha_t * x0 + sigma_t * eps


def test_a_residual_is_inverted_by_what_is_seen_and_predicted() -> None:
    residual, x0, eps, x_t = _residual()
    z, f = residual.seen(x_t), residual.target(x0, eps)
    torch.testing.assert_close(residual.x0(z, f), x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(residual.eps(z, f), eps, atol=2e-3, rtol=2e-3)  # alpha at t = 999 is 5e-5
    n = (x0 - residual.c) / residual.s
    torch.testing.assert_close(z, residual.alpha * n + residual.sigma * eps, atol=1e-3, rtol=1e-3)


def test_predicting_nothing_is_the_best_linear_estimate_and_without_a_condition_it_is_v() -> None:
    residual, x0, eps, x_t = _residual()
    c, s, alpha_t, sigma_t = residual.c, residual.s, residual.alpha_t, residual.sigma_t
    gain = alpha_t * s**2 / (alpha_t**2 * s**2 + sigma_t**2)
    linear = c + gain * (x_t - alpha_t * c)
    torch.testing.assert_close(residual.x0(residual.seen(x_t), torch.zeros_like(x_t)), linear, atol=1e-5, rtol=1e-5)
    plain = Residual(torch.zeros_like(c), torch.ones_like(s), alpha_t, sigma_t)
    torch.testing.assert_close(plain.seen(x_t), x_t)
    torch.testing.assert_close(plain.target(x0, eps), alpha_t * eps - sigma_t * x0)


def test_deviations_are_nothing_where_known_and_grow_with_depth_and_detail() -> None:
    x0 = torch.rand((4, 3, 32, 32), generator=generator()) * 2 - 1
    x0[..., :16] *= 0.05
    mask = torch.ones(4, 1, 32, 32)
    mask[1] = 0
    mask[1, :, 8:25, 8:25] = 1
    s = deviation(torch.arange(4), torch.where(mask > 0, luma(x0), x0), mask)
    assert bool((s[0] == PRIOR).all())
    assert bool((s[1][mask[1] == 0] == EXACT).all())
    assert s[1, 0, 16, 8:17].diff().gt(0).all()
    assert s[2, ..., :14].mean() < 0.4 * s[2, ..., 18:].mean()
    assert bool((s > 0).all())
    assert torch.equal(depth(torch.ones(1, 1, 4, 6)), torch.full((1, 1, 4, 6), 6.0))
    coarse = deviation(torch.ones(4), x0, mask * 0.5)
    assert bool((coarse[mask > 0] == ROUGH).all())
    assert bool((coarse[mask == 0] == EXACT).all())


def test_weights_and_times() -> None:
    sigma = torch.linspace(0, 1, 100)
    assert bool((diffusion.weight(sigma).diff() >= 0).all())
    assert float(diffusion.weight(torch.tensor([1.0]))) == 1
    t = diffusion.stratified_times(1000, draws())
    moved = diffusion.residual_times(t, torch.full((1000,), 0.1))
    assert torch.equal(moved[::2], t[::2])
    alpha_t, sigma_t = diffusion.tables()
    u, m = t[1::2], moved[1::2]
    near = (u > 300) & (u < 900)
    ratio = (sigma_t[m] / alpha_t[m])[near] / (sigma_t[u] / alpha_t[u])[near]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1), atol=0.025, rtol=0)
    whole = diffusion.residual_times(t, torch.ones(1000))
    assert int((whole - t).abs().max()) <= 1


def test_the_times_of_a_hint_lie_in_the_middle():
    """Of the density pi / 2 sin(pi t), cos(pi / 4) lies between 1/4 and 3/4, and 1/2 (1 - cos(pi / 10)) below 1/10."""
    t = diffusion.middle_times(diffusion.stratified_times(1000, draws()), torch.ones(1000))
    assert float(((t >= 250) & (t < 750)).float().mean()) == pytest.approx(0.7071, abs=0.005)
    assert float((t < 100).float().mean()) == pytest.approx(0.0245, abs=0.005)
    assert t.min() >= 0
    assert t.max() < 1000


def test_smooth_fill_keeps_the_known_and_ignores_the_hole() -> None:
    x0 = torch.rand((6, 3, 40, 28), generator=generator()) * 2 - 1
    mask = random_masks(6, 40, draws(1))[..., :28]
    mask[0] = 0
    filled = smooth_fill(x0, mask)
    assert torch.equal(filled[mask.expand_as(x0) == 0], x0[mask.expand_as(x0) == 0])
    other = torch.where(mask > 0, torch.full_like(x0, 7.0), x0)
    torch.testing.assert_close(smooth_fill(other, mask), filled)
    torch.testing.assert_close(smooth_fill(torch.full_like(x0, 0.3), mask), torch.full_like(x0, 0.3))
    assert float(smooth_fill(x0, torch.ones_like(mask)).abs().max()) == 0
    assert filled.min() >= x0.min() - 1e-5
    assert filled.max() <= x0.max() + 1e-5


def test_masks_and_conditions() -> None:
    masks = random_masks(200, 32, draws())
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert bool((masks.mean(dim=(1, 2, 3)) > 0).all())
    assert 0.15 < float(masks.mean()) < 0.5
    assert torch.equal(masks, random_masks(200, 32, draws()))
    x0 = torch.rand((64, 3, 32, 32), generator=generator()) * 2 - 1
    before = x0.clone()
    counts = split_count(64, SHARES, draws())
    assert sum(counts) == 64
    assert counts[1] in range(30, 33)
    task, condition, mask, s = draw_conditions(x0, counts, draws())
    assert torch.bincount(task, minlength=4).tolist() == counts
    assert torch.equal(x0, before)
    torch.testing.assert_close(s, deviation(task, condition, mask))
    assert float(condition[task == 0].abs().max()) == 0
    torch.testing.assert_close(condition[task == 3], luma(x0[task == 3]))
    known = (mask == 0).expand_as(x0)
    assert torch.equal(condition[known], x0[known])
    assert bool((mask[task != 1] == 1).all())
    _, mask = inpaint_condition(x0, draws())
    assert set(mask.unique().tolist()) == {0.0, 0.5, 1.0}
    coarser = simulate_coarse_estimate(x0, draws())
    assert torch.equal(coarser, simulate_coarse_estimate(x0, draws()))
    fine, coarse = ((z - blur(z, torch.full((64,), 8.0))).square().mean() for z in (x0, coarser))
    assert coarse < 0.4 * fine  # texture is gone
    tones = (torch.nn.functional.avg_pool2d(z, 8) for z in (x0, coarser))
    assert 0.01 < float((next(tones) - next(tones)).square().mean().sqrt()) < 0.15  # and tones are off
    small = blur(x0, torch.full((64,), 2.0))
    assert 0.1 < float((small - x0).square().mean().sqrt()) < 0.7
