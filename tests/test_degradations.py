"""Degradations: adjoints, pseudo-inverses and projections, against PyTorch, Pillow and deepinv."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from inverse import operators
from PIL import Image

from editkit.errors import UsageError
from editkit_plugins.restoring import kernels
from editkit_plugins.restoring.cropped import crop_to_fit
from editkit_plugins.restoring.degradations import Blur, Grey, Mask, Quantise, average, bicubic
from editkit_plugins.restoring.jpeg import Jpeg, tables

SIZE = (3, 8, 12)
LINEAR = operators(SIZE)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LINEAR)
def test_the_adjoint_is_the_adjoint_and_the_pseudo_inverse_one(name):
    A = LINEAR[name]
    x, y = noise(2, *A.size), noise(2, *A.observed, seed=1)
    assert abs(float((A.forward(x) * y).sum() - (x * A.adjoint(y)).sum())) < 1e-4
    torch.testing.assert_close(A.forward(A.pinv(A.forward(x))), A.forward(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(A.pinv(A.forward(A.pinv(y))), A.pinv(y), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_a_projection_explains_the_observation_and_moves_no_further_than_it_must(name):
    A = LINEAR[name]
    x, truth = noise(2, *A.size), noise(2, *A.size, seed=1)
    y = A.forward(truth)
    near = A.project(x, y)
    torch.testing.assert_close(A.forward(near), y, atol=1e-5, rtol=1e-5)
    null = noise(2, *A.size, seed=2)
    null = null - A.pinv(A.forward(null))
    assert float(((near - x) * null).flatten(1).sum(1).abs().max()) < 1e-2 * float((near - x).norm())


@pytest.mark.parametrize("name", LINEAR)
def test_coefficients_are_orthonormal_and_can_be_set(name):
    A = LINEAR[name]
    x, y = noise(2, *A.size), noise(2, *A.observed, seed=1)
    z = A.inverse * A.observe(y)
    put = A.with_coefficients(x, z)
    torch.testing.assert_close(A.analyse(put) * A.kept, z * A.kept, atol=1e-4, rtol=1e-4)
    rest = x - A.synthesise(A.kept * A.analyse(x))
    torch.testing.assert_close(put - A.synthesise(A.kept * A.analyse(put)), rest, atol=1e-4, rtol=1e-4)


def test_resampling_and_grey_are_those_of_pytorch():
    x = noise(2, *SIZE)
    torch.testing.assert_close(average(SIZE, 4).forward(x), F.avg_pool2d(x, 4))
    wanted = F.interpolate(x, (3, 5), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(bicubic(SIZE, 3, 5).forward(x), wanted, atol=1e-5, rtol=1e-5)
    grey = (x * torch.tensor(kernels.LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(Grey(SIZE).forward(x), grey)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(5, 9), st.integers(5, 9), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_blur_is_the_circular_convolution(kh, kw, height, width, seed):
    kernel, x = noise(kh, kw, seed=seed).abs().double(), noise(1, 3, height, width, seed=seed + 1)
    wanted = torch.zeros_like(x)
    for i in range(kh):
        for j in range(kw):
            wanted += float(kernel[i, j]) * x.roll((i - kh // 2, j - kw // 2), (-2, -1))
    torch.testing.assert_close(Blur(kernel, (3, height, width)).forward(x), wanted, atol=1e-4, rtol=1e-4)


def test_kernels_sum_to_one_and_lie_as_they_should():
    for kernel in (kernels.gaussian(1.3), kernels.motion(9, 0), kernels.motion(7.5, 40)):
        assert float(kernel.sum()) == pytest.approx(1.0)
        torch.testing.assert_close(kernel, kernel.flip(0, 1))
    line = kernels.motion(9, 0)
    assert float(line[len(line) // 2].sum()) == pytest.approx(1.0)
    assert int((line > 0).sum()) == 9
    rising = kernels.motion(9, 45)
    assert float(rising[:5, 5:].sum()) > 0.3
    assert float(rising[:4, :4].sum()) == 0.0


def test_deepinv_agrees():
    physics = pytest.importorskip("deepinv").physics
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    size = (3, 16, 16)
    seen = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5
    kernel = kernels.gaussian(0.9)
    pairs = [
        (Mask(seen, size), physics.Inpainting(size, mask=seen.float().expand(3, 16, 16), device="cpu")),
        (Grey(size), physics.Decolorize(device="cpu")),
        (Blur(kernel, size), physics.BlurFFT(size, filter=kernel.float()[None, None], device="cpu")),
    ]
    for ours, theirs in pairs:
        y, adjoint = theirs.A(x), theirs.A_adjoint(theirs.A(x))
        torch.testing.assert_close(ours.forward(x), y[:, : ours.observed[0]], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(ours.adjoint(ours.forward(x)), adjoint, atol=2e-4, rtol=1e-3)
    dagger = pairs[0][1].A_dagger(pairs[0][1].A(x))
    torch.testing.assert_close(pairs[0][0].pinv(pairs[0][0].forward(x)), dagger)


@pytest.mark.parametrize("quality", [5, 30, 75, 95])
def test_jpeg_is_pillows_but_for_rounding(quality):
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(2))
    smooth = F.interpolate(coarse, (32, 40), mode="bicubic", align_corners=False).clamp(0, 1)
    pixels = (smooth[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality, subsampling=0)
    opened = Image.open(file)
    assert sorted(opened.quantization[0]) == sorted(tables(quality)[0].flatten().tolist())
    assert sorted(opened.quantization[1]) == sorted(tables(quality)[1].flatten().tolist())
    x = pixels.permute(2, 0, 1)[None] / 127.5 - 1.0
    got = ((Jpeg(tables(quality), (3, 32, 40)).forward(x) + 1.0) * 127.5).clamp(0, 255)[0].permute(1, 2, 0).numpy()
    difference = np.abs(got - np.asarray(opened, np.float32))
    assert difference.mean() < 1.5  # Y'CbCr is rounded before the transform there, which tips some coefficients over
    assert np.quantile(difference, 0.9) < 4.0


@pytest.mark.parametrize("A", [Jpeg(tables(20), (3, 16, 24)), Quantise(5, (3, 16, 24))], ids=["jpeg", "quantise"])
def test_what_is_not_linear_is_idempotent_and_projects_onto_what_explains_it(A):
    truth, x = noise(2, 3, 16, 24).clamp(-1, 1), noise(2, 3, 16, 24, seed=1)
    y = A.forward(truth)
    torch.testing.assert_close(A.forward(y), y, atol=1e-4, rtol=1e-4)
    near = A.project(x, y)
    torch.testing.assert_close(A.forward(near), y, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(A.project(near, y), near, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(A.project(truth, y), truth, atol=1e-4, rtol=1e-4)
    assert float((near - truth).norm()) <= float((x - truth).norm())


@pytest.mark.parametrize("A", [average((3, 8, 8), 2), Quantise(4, (3, 8, 8))], ids=["average", "quantise"])
def test_on_a_padded_picture_the_padding_is_not_observed(A):
    wide, y = crop_to_fit(A, 10, 11), A.forward(noise(1, 3, 8, 8))
    x = noise(1, 3, 10, 11, seed=1)
    near = wide.project(x, y)
    torch.testing.assert_close(near[..., :8, :8], A.project(x[..., :8, :8], y))
    assert torch.equal(near[..., 8:, :], x[..., 8:, :])
    assert torch.equal(near[..., :, 8:], x[..., :, 8:])
    assert wide.guess(y).shape == x.shape


def test_what_does_not_fit_is_refused_with_sizes():
    with pytest.raises(UsageError, match="the kernel has 19x19 pixels and the picture 12x8"):
        Blur(kernels.gaussian(3.0), SIZE)
    with pytest.raises(UsageError, match=r"the observation is 5x5 \(3 channels\); .* a picture of 12x8"):
        average(SIZE, 2).check(noise(1, 3, 5, 5))
    with pytest.raises(UsageError, match="cannot turn 12x8 pixels into 20x9"):
        bicubic(SIZE, 9, 20)
    with pytest.raises(UsageError, match="at least 2 levels"):
        Quantise(1, SIZE)
