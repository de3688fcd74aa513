"""Degradations y = A(x), the forward operators of inverse problems.

A linear degradation is given by the thin singular value decomposition of its matrix, A = U S V^T. It is defined by four
operations, `analyse` V^T x, `synthesise` V z, `observe` U^T y and `render` U z, and the singular values S. From these
follow

    forward  A x   = U S V^T x            adjoint  A^T y = V S U^T y            pinv  A^+ y = V S^+ U^T y

and all that the solvers do, coefficient by coefficient. U and V have orthonormal columns. Coefficients z may have any
shape; those of a blur are complex, the half spectrum of a real picture. Singular values below `BAND` times the largest
are zero in S^+: such coefficients count as unobserved, the others are the band that A keeps.

Pictures are (batch, c, h, w) in any range; `size` is (c, h, w) of x, and `observed` that of y.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from editkit.plugin import UsageError
from editkit_plugins.restoring.kernels import LUMA
from editkit_plugins.restoring.pieces import STRIP, pieces

BAND = 1e-3
"""Singular values below this fraction of the largest are not inverted."""

ROUNDS = 10
"""Rounds of alternating projections onto the pictures that explain an observation and onto the valid range."""

Size = tuple[int, int, int]
"""(channels, height, width)"""


class Degradation(ABC):
    """A degradation y = A(x).

    Args:
        size: of x, (channels, height, width).
        observed: of y.
    """

    linear: bool = False

    def __init__(self, size: Size, observed: Size) -> None:
        self.size, self.observed = size, observed

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return A(x), (batch, *observed), for x (batch, *size); differentiable if A is."""

    @abstractmethod
    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the x' closest to x in the Euclidean norm, (batch, *size), with A(x') = y on the band that A keeps."""

    @abstractmethod
    def guess(self, y: Tensor) -> Tensor:
        """Return an initial estimate of x from y, (batch, *size)."""

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        """Project x onto the pictures in [-1, 1] that explain y, by alternating projections."""
        for _ in range(ROUNDS):
            x = self.project(x, y)
            low, high = torch.aminmax(x)
            beyond = max(-float(low), float(high)) > 1.0
            x = x.clamp(-1.0, 1.0)
            if not beyond:  # in both sets already
                break
        return x

    def check(self, y: Tensor) -> None:
        """Raise UsageError if the size of `y` is not that of an observation by this degradation."""
        if tuple(y.shape[1:]) != self.observed:
            got, wanted = _format_size(tuple(y.shape[1:])), _format_size(self.observed)
            made = f"this degradation turns a picture of {_format_size(self.size)} into {wanted}"
            raise UsageError(f"the observation is {got}; {made}")


def _format_size(size: tuple[int, ...]) -> str:
    channels, height, width = size
    return f"{width}x{height} ({channels} channel{'s' if channels > 1 else ''})"


class Linear(Degradation):
    """A linear degradation y = A x with A = U S V^T; `singular` is S, broadcastable to the coefficients."""

    linear = True
    singular: Tensor
    alike: bool = False
    """Whether every channel is degraded separately and in the same way; then single channels may be passed."""

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """Return V^T x, the coefficients of x."""

    @abstractmethod
    def synthesise(self, z: Tensor) -> Tensor:
        """Return V z, the component of a picture with the coefficients z."""

    @abstractmethod
    def observe(self, y: Tensor) -> Tensor:
        """Return U^T y, the coefficients of an observation; without noise they are S z."""

    @abstractmethod
    def render(self, z: Tensor) -> Tensor:
        """Return U z, the observation with the coefficients z."""

    @cached_property
    def kept(self) -> Tensor:
        """Which coefficients are observed, in the shape of `singular`."""
        return self.singular > BAND * self.singular.max()

    @cached_property
    def inverse(self) -> Tensor:
        """S^+, in the shape of `singular`."""
        return torch.where(self.kept, 1.0 / self.singular.clamp_min(1e-30), torch.zeros_like(self.singular))

    def forward(self, x: Tensor) -> Tensor:
        return self.render(self.singular * self.analyse(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, (batch, *size)."""
        return self.synthesise(self.singular * self.observe(y))

    def pinv(self, y: Tensor) -> Tensor:
        """Return A^+ y, (batch, *size): the picture of least norm that explains y."""
        return self.synthesise(self.inverse * self.observe(y))

    def with_coefficients(self, x: Tensor, z: Tensor) -> Tensor:
        """Set the observed coefficients of x to z, and keep its component in the null space of A."""
        change = (z - self.analyse(x)).masked_fill_(~self.kept, 0.0)
        return x + self.synthesise(change)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x + A^+ (y - A x)."""
        return pieces(lambda x, y: x + self.pinv(y - self.forward(x)), -3, 1 if self.alike else x.shape[1], x, y)

    def guess(self, y: Tensor) -> Tensor:
        return self.pinv(y)


class Mask(Linear):
    """Lost pixels, y = m x: `keep`, broadcastable to (c, h, w), is 1 where a pixel is observed; others are 0.

    U = V = restriction, S = 1. All ones: nothing is lost, and the problem is pure denoising.
    """

    def __init__(self, keep: Tensor, size: Size) -> None:
        super().__init__(size, size)
        self.keep = keep.float().reshape((1,) * (3 - keep.ndim) + keep.shape)
        self.singular = self.keep
        self.alike = self.keep.shape[0] == 1

    def analyse(self, x: Tensor) -> Tensor:
        return self.keep * x

    def synthesise(self, z: Tensor) -> Tensor:
        return self.keep * z

    def observe(self, y: Tensor) -> Tensor:
        return self.keep * y

    def render(self, z: Tensor) -> Tensor:
        return self.keep * z


class Separable(Linear):
    """Separable resampling, Y = R X C^T for each channel, by the decompositions of two small matrices.

    Args:
        rows: R, (h_y, h) with h_y <= h.
        columns: C, (w_y, w) with w_y <= w.
    """

    alike = True

    def __init__(self, rows: Tensor, columns: Tensor, channels: int) -> None:
        super().__init__((channels, rows.shape[1], columns.shape[1]), (channels, rows.shape[0], columns.shape[0]))
        self._u, s, self._v = zip(*(_svd(matrix) for matrix in (rows, columns)), strict=True)
        self.singular = s[0][:, None] * s[1][None, :]

    def analyse(self, x: Tensor) -> Tensor:
        product: Tensor = self._v[0].T @ x @ self._v[1]
        return product

    def synthesise(self, z: Tensor) -> Tensor:
        product: Tensor = self._v[0] @ z @ self._v[1].T
        return product

    def observe(self, y: Tensor) -> Tensor:
        product: Tensor = self._u[0].T @ y @ self._u[1]
        return product

    def render(self, z: Tensor) -> Tensor:
        product: Tensor = self._u[0] @ z @ self._u[1].T
        return product


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return thin U, s, V of a matrix (m, n), m <= n; computed in float64, returned in float32."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u.float(), s.float(), vh.T.contiguous().float()


def average(size: Size, factor: int) -> Linear:
    """Downscale by block means of `factor` x `factor` pixels. `size` must be a multiple of `factor`."""
    return _resample(size, size[1] // factor, size[2] // factor, _area)


def bicubic(size: Size, height: int, width: int) -> Linear:
    """Downscale to `height` x `width` by antialiased bicubic interpolation, as in torch and Pillow.

    Raises:
        UsageError: the result would be larger than `size`.
    """
    return _resample(size, height, width, _bicubic)


def _resample(size: Size, height: int, width: int, matrix: Callable[[int, int], Tensor]) -> Linear:
    if height > size[1] or width > size[2]:
        raise UsageError(f"downscaling cannot turn {size[2]}x{size[1]} pixels into {width}x{height}")
    return Separable(matrix(height, size[1]), matrix(width, size[2]), size[0])


def _area(m: int, n: int) -> Tensor:
    """Return the matrix (m, n) in which output k is the mean of the inputs that it overlaps."""
    matrix: Tensor = F.adaptive_avg_pool1d(torch.eye(n, dtype=torch.float64)[None], m)[0].T
    return matrix


def _bicubic(m: int, n: int) -> Tensor:
    """Return the matrix (m, n) of antialiased bicubic interpolation."""
    eye = torch.eye(n, dtype=torch.float64)[None, None]
    return F.interpolate(eye, (m, n), mode="bicubic", antialias=True, align_corners=False)[0, 0]


class Grey(Linear):
    """Luma, y = w . x for every pixel: (batch, 1, h, w). S = |w|, V = w / |w|, U = 1."""

    def __init__(self, size: Size, weights: tuple[float, ...] = LUMA) -> None:
        super().__init__(size, (1, *size[1:]))
        if len(weights) != size[0]:
            raise UsageError(f"grey takes {len(weights)} channels, the picture has {size[0]}")
        w = torch.tensor(weights)
        self.singular = w.norm().reshape(1, 1, 1)
        self._direction = (w / w.norm()).reshape(-1, 1, 1)

    def analyse(self, x: Tensor) -> Tensor:
        luma: Tensor = (self._direction * x).sum(1, keepdim=True)
        return luma

    def synthesise(self, z: Tensor) -> Tensor:
        part: Tensor = self._direction * z
        return part

    def observe(self, y: Tensor) -> Tensor:
        return y

    def render(self, z: Tensor) -> Tensor:
        return z


class Luma(Grey):
    """Luma whose estimates are corrected along the grey axis instead of along w, which keeps colour differences."""

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (y - self.forward(x))

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + k (x - luma(x)), with the largest k <= 1 at each pixel that keeps it in [-1, 1].

        Its luma is exactly y.
        """
        colour = x - self.forward(x)
        room = torch.where(colour > 0, 1.0 - y, 1.0 + y).clamp_min(0.0) / colour.abs().clamp_min(1e-12)
        return y + room.amin(1, keepdim=True).clamp_max(1.0) * colour


class Blur(Linear):
    """A blur y = k * x: circular convolution with a centred `kernel` (kh, kw), by the fast Fourier transform.

    With the kernel's spectrum k^: V = F^-1, S = |k^|, U = F^-1 k^ / |k^|.

    Raises:
        UsageError: the kernel is larger than the picture.
    """

    alike = True

    def __init__(self, kernel: Tensor, size: Size) -> None:
        super().__init__(size, size)
        height, width = size[1:]
        if kernel.shape[0] > height or kernel.shape[1] > width:
            raise UsageError(
                f"the kernel has {kernel.shape[1]}x{kernel.shape[0]} pixels and the picture {width}x{height}; "
                "a kernel must fit into the picture"
            )
        self._profiles = kernel.sum(1), kernel.sum(0)
        padded = torch.zeros(height, width, dtype=torch.float64)
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
        spectrum = torch.fft.rfft2(padded.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1)))
        self.singular = spectrum.abs().float()
        phase = torch.where(spectrum.abs() > 0, spectrum / spectrum.abs().clamp_min(1e-300), torch.ones_like(spectrum))
        self._phase = phase.to(torch.complex64)

    def analyse(self, x: Tensor) -> Tensor:
        z: Tensor = torch.fft.rfft2(x, norm="ortho")
        return z

    def synthesise(self, z: Tensor) -> Tensor:
        x: Tensor = torch.fft.irfft2(z, s=self.size[1:], norm="ortho")
        return x

    def observe(self, y: Tensor) -> Tensor:
        return self._phase.conj() * self.analyse(y)

    def render(self, z: Tensor) -> Tensor:
        return self.synthesise(self._phase * z)

    def tapered(self, y: Tensor) -> Tensor:
        """Blend y into k * y towards its edges, as far as the kernel reaches, so that opposite edges match.

        A real blur is not circular: beyond the edge lies something else than at the opposite edge, and inverting a
        circular blur causes ringing there. The weight is 1 minus the kernel's normalised autocorrelation (MATLAB's
        edgetaper; explained in Reeves 2005).
        """
        rows, columns = (_inside(profile, n).to(y) for profile, n in zip(self._profiles, self.size[1:], strict=True))
        inside = rows[:, None] * columns[None, :]
        return inside * y + (1.0 - inside) * self.forward(y)


def _inside(profile: Tensor, n: int) -> Tensor:
    """Return 1 - acf(k) / acf(0) of a kernel's `profile` along one axis, (n,): 0 at the edges, 1 out of its reach."""
    power = torch.fft.rfft(profile.double(), max(n - 1, len(profile))).abs().square()
    acf = torch.fft.irfft(power, max(n - 1, len(profile)))
    acf = torch.cat([acf, acf[:1]])[:n]
    return (1.0 - acf / acf.max()).float()


class Quantise(Degradation):
    """Quantisation to the nearest of `levels` evenly spaced values in [-1, 1].

    It is not linear: y determines an interval for every value.
    """

    def __init__(self, levels: int, size: Size) -> None:
        super().__init__(size, size)
        if levels < 2:
            raise UsageError(f"quantise needs at least 2 levels, got {levels}")
        self.step = 2.0 / (levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        return ((x.clamp(-1, 1) + 1.0) / self.step).round() * self.step - 1.0

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return pieces(self._within, -2, STRIP, x, y)

    def _within(self, x: Tensor, y: Tensor) -> Tensor:
        half = 0.5 * self.step * (1.0 - 1e-4)
        low = torch.where(y <= -1.0 + 1e-6, torch.full_like(y, -math.inf), y - half)
        high = torch.where(y >= 1.0 - 1e-6, torch.full_like(y, math.inf), y + half)
        return torch.minimum(torch.maximum(x, low), high)

    def guess(self, y: Tensor) -> Tensor:
        return y
