"""Windows cover, their weights sum to one, and a purely local model cannot tell that it was tiled."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from toy import Isotropic

from editkit import sample
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine
from editkit.diffusion.windows import Windowed, window_starts, window_weights
from editkit.editing.api import stream
from editkit.errors import ModelError
from editkit.plugins import Inpaint, SDEdit


@given(st.integers(1, 400), st.integers(2, 80), st.integers(0, 40))
def test_windows_cover_lie_inside_and_overlap(length, window, overlap):
    overlap = min(overlap, window - 1)
    begins = window_starts(length, window, overlap)
    size = min(window, length)
    covered = torch.zeros(length)
    for begin in begins:
        assert begin >= 0
        assert begin + size <= length
        covered[begin : begin + size] += 1
    assert (covered > 0).all()
    assert all(b - a <= window - overlap for a, b in zip(begins, begins[1:], strict=False))


@given(st.integers(1, 400), st.integers(2, 80), st.integers(0, 40))
def test_weights_sum_to_one_everywhere(length, window, overlap):
    begins = window_starts(length, window, min(overlap, window - 1))
    total = torch.zeros(length)
    for begin, share in zip(begins, window_weights(begins, window, length), strict=True):
        assert (share > 0).all()
        total[begin : begin + len(share)] += share
    torch.testing.assert_close(total, torch.ones(length), atol=1e-5, rtol=0)


class Local(Isotropic):
    """x0 of a pixel depends on that pixel and on what it is told there."""

    def __call__(self, x_t, level, conds):
        self.calls += 1
        self.seen = max(getattr(self, "seen", 0), x_t.shape[-1])
        made = []
        for cond in conds:
            x0 = torch.tanh(x_t) * level.alpha
            if cond.known is not None:
                x0 = x0 + 0.3 * cond.known
            made.append(Prediction(x0, (x_t - level.alpha * x0) / level.sigma))
        return tuple(made)


@pytest.mark.parametrize(("height", "width"), [(70, 50), (33, 97), (16, 16), (10, 40)])
def test_tiled_equals_untiled_on_a_local_model(height, width):
    x_t = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    level, cond = Cosine().level(0.6), Conditioning(known=torch.randn(2, 3, height, width))
    (whole,) = Local()(x_t, level, (cond,))
    (tiled,) = Windowed(Local(), window=16, overlap=5, batch=3)(x_t, level, (cond,))
    torch.testing.assert_close(tiled.x0, whole.x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiled.eps, whole.eps, atol=1e-5, rtol=0)


def test_a_whole_process_by_windows_equals_one_without():
    run = dict(shape=(1, 3, 40, 56), sampler="dpm++2m", steps=10)
    whole = sample(Local(), **run)
    tiled = sample(Windowed(Local(), window=16, overlap=6), **run)
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("edits", [SDEdit(strength=0.7), Inpaint(mask="box:0,0,90,61") & SDEdit(strength=0.7)])
def test_an_edit_by_the_canvas_windows_equals_one_without(edits):
    """From the picture through the canvas and the sampler to the last state; both compute every window."""

    class Trained(Local):
        info = ModelInfo("trained at 24", "test", sampler="dpm++2m", steps=6, window=24)

    pixels = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    tiled, whole = (
        list(stream(pixels, edits, model=Trained(), canvas=canvas, seed=2))[-1] for canvas in ("auto", "full")
    )
    assert tiled.plan.passes[-1].at.window == 24
    assert whole.plan.passes[-1].at.window is None
    torch.testing.assert_close(tiled.state.x, whole.state.x, atol=1e-5, rtol=0)


def test_the_model_never_sees_more_than_a_window():
    model = Local()
    sample(Windowed(model, window=16, overlap=4), shape=(1, 3, 40, 40), steps=2)
    assert model.seen == 16


def test_only_windows_that_touch_the_mask_are_computed():
    picture, mask = torch.rand(1, 3, 128, 128) * 2 - 1, torch.zeros(1, 1, 128, 128)
    mask[..., 40:50, 60:70] = 1
    model = Local()
    tiled = Windowed(model, window=16, overlap=4, batch=1).attach(picture, mask)
    x_t = torch.randn(1, 3, 128, 128)
    (whole,) = Local()(x_t, Cosine().level(0.5), (Conditioning(),))
    (part,) = tiled(x_t, Cosine().level(0.5), (Conditioning(),))
    assert model.calls <= 9
    inside = mask.expand_as(picture) > 0
    torch.testing.assert_close(part.x0[inside], whole.x0[inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(part.x0[..., :16, :16], picture[..., :16, :16])


def test_a_model_that_looks_around_itself_has_no_seam():
    """Each window blurs with its own border handling; the blend's second differences stay those of the whole."""

    class Blurring(Isotropic):
        def __call__(self, x_t, level, conds):
            x0 = F.avg_pool2d(F.pad(x_t, (2, 2, 2, 2), mode="replicate"), 5, 1)
            return (Prediction(x0, (x_t - level.alpha * x0) / level.sigma),)

    ramp = torch.linspace(-1, 1, 96).expand(1, 3, 96, 96).contiguous()
    (whole,) = Blurring()(ramp, Cosine().level(0.5), (Conditioning(),))
    (tiled,) = Windowed(Blurring(), window=32, overlap=16)(ramp, Cosine().level(0.5), (Conditioning(),))
    assert (tiled.x0 - whole.x0).abs().max() < 0.01
    assert tiled.x0.diff(dim=-1).diff(dim=-1).abs()[..., 4:-4].max() < 0.01


def test_gradients_pass_through_the_windows():
    x_t = torch.randn(1, 3, 40, 40, requires_grad=True)
    (tiled,) = Windowed(Local(), window=16, overlap=4)(x_t, Cosine().level(0.5), (Conditioning(),))
    (gradient,) = torch.autograd.grad(tiled.x0.sum(), x_t)
    expected = (1 - torch.tanh(x_t.detach()) ** 2) * Cosine().level(0.5).alpha
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=0)


def test_an_overlap_as_large_as_the_window_is_refused():
    with pytest.raises(ModelError, match="cannot overlap by 16"):
        Windowed(Local(), window=16, overlap=16)


def test_a_control_is_cut_with_its_window_and_guidance_sees_the_networks_output():
    """Each window is steered by its own part of the hint; the blend is still an output that cfg can fold."""
    from dataclasses import dataclass

    from editkit.diffusion.control import cut_like
    from editkit.diffusion.prediction import convert

    @dataclass(frozen=True, eq=False)
    class Hint:
        values: torch.Tensor
        wanted_only = False

        def __call__(self, given):
            raise AssertionError("the model below reads the hint itself")

        def cut(self, spots, size):
            return Hint(cut_like(self.values, spots, size))

    class Steered(Isotropic):
        def __call__(self, x_t, level, conds):
            return tuple(
                convert(torch.tanh(x_t) + sum(c.values for c in cond.control), x_t, level, "v_prediction")
                for cond in conds
            )

    hint, x_t, level = Hint(torch.randn(1, 3, 40, 56)), torch.randn(1, 3, 40, 56), Cosine().level(0.6)
    conds = (Conditioning(), Conditioning().plus_control(hint))
    whole = Steered()(x_t, level, conds)
    tiled = Windowed(Steered(), window=16, overlap=5)(x_t, level, conds)
    for a, b in zip(tiled, whole, strict=True):
        assert a.kind == b.kind
        torch.testing.assert_close(a.x0, b.x0, atol=1e-5, rtol=0)
        torch.testing.assert_close(a.output, b.output, atol=1e-5, rtol=0)
