"""Degradations y = A(x): what a picture went through before it was observed.

A linear one is known by the thin singular value decomposition of its matrix, A = U S V^T. Four operations say it all:
`analyse` V^T x, `synthesise` V z, `observe` U^T y, `render` U z, and the singular values S. From them follow

    forward  A x   = U S V^T x            adjoint  A^T y = V S U^T y            pinv  A^+ y = V S^+ U^T y

and everything the methods do, coefficient by coefficient. U and V have orthonormal columns; coefficients z may have any
shape (for a blur they are complex: the half spectrum of a real picture). Singular values below `BAND` of the largest
count as zero in S^+: what lies there is not observed ("the band it keeps").

Pictures are (batch, c, h, w), any range; `size` is that of x behind the batch, `observed` that of y.
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
"""Singular values below this share of the largest are not inverted."""

ROUNDS = 10
"""Of the alternating projections onto what explains an observation and what is a picture."""

Size = tuple[int, int, int]
"""(channels, height, width)"""


class Degradation(ABC):
    """y = A(x).

    Args:
        size: of x, (channels, height, width).
        observed: of y.
    """

    linear: bool = False

    def __init__(self, size: Size, observed: Size) -> None:
        self.size, self.observed = size, observed

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x), (batch, *observed); differentiable where A is."""

    @abstractmethod
    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The x' nearest to x (in the Euclidean norm) of which A(x') = y on the band that A keeps."""

    @abstractmethod
    def guess(self, y: Tensor) -> Tensor:
        """A picture of the size of x that y suggests, to begin from."""

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        """x in the range of pictures [-1, 1], and explaining y: projected onto the two in turn."""
        for _ in range(ROUNDS):
            x = self.project(x, y)
            low, high = torch.aminmax(x)
            beyond = max(-float(low), float(high)) > 1.0
            x = x.clamp(-1.0, 1.0)
            if not beyond:  # in both already
                break
        return x

    def check(self, y: Tensor) -> None:
        """Raises UsageError where `y` cannot be an observation by this degradation."""
        if tuple(y.shape[1:]) != self.observed:
            got, wanted = _said(tuple(y.shape[1:])), _said(self.observed)
            made = f"of a picture of {_said(self.size)} this degradation makes {wanted}"
            raise UsageError(f"the observation is {got}; {made}")


def _said(size: tuple[int, ...]) -> str:
    channels, height, width = size
    return f"{width}x{height} ({channels} channel{'s' if channels > 1 else ''})"


class Linear(Degradation):
    """y = A x, by A = U S V^T; `singular` is S, broadcastable to the coefficients."""

    linear = True
    singular: Tensor
    alike: bool = False
    """Each channel is degraded by itself, and all in the same way: any of them may be given alone."""

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """V^T x: the coefficients of x."""

    @abstractmethod
    def synthesise(self, z: Tensor) -> Tensor:
        """V z: the part of a picture that has the coefficients z."""

    @abstractmethod
    def observe(self, y: Tensor) -> Tensor:
        """U^T y: the coefficients of an observation, S z of noiseless ones."""

    @abstractmethod
    def render(self, z: Tensor) -> Tensor:
        """U z."""

    @cached_property
    def kept(self) -> Tensor:
        """True where a coefficient is observed, as `singular`."""
        return self.singular > BAND * self.singular.max()

    @cached_property
    def inverse(self) -> Tensor:
        """S^+."""
        return torch.where(self.kept, 1.0 / self.singular.clamp_min(1e-30), torch.zeros_like(self.singular))

    def forward(self, x: Tensor) -> Tensor:
        return self.render(self.singular * self.analyse(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""
        return self.synthesise(self.singular * self.observe(y))

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, the smallest picture that explains y."""
        return self.synthesise(self.inverse * self.observe(y))

    def with_coefficients(self, x: Tensor, z: Tensor) -> Tensor:
        """x with its observed coefficients set to z; the null space of A keeps what x has there."""
        change = (z - self.analyse(x)).masked_fill_(~self.kept, 0.0)
        return x + self.synthesise(change)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """x + A^+ (y - A x)."""
        return pieces(lambda x, y: x + self.pinv(y - self.forward(x)), -3, 1 if self.alike else x.shape[1], x, y)

    def guess(self, y: Tensor) -> Tensor:
        return self.pinv(y)


class Mask(Linear):
    """y = m x: pixels where `keep`, broadcastable to (c, h, w), is 1 are seen, the others are 0. U = V = restriction,
    S = 1.

    All ones: nothing is lost, and only noise is to be removed.
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
    """Y = R X C^T for each channel: any resampling, by the decompositions of two small matrices.

    Args:
        rows: R, (h_y, h). columns: C, (w_y, w). Both with at most as many rows as columns.
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
    """Thin U, s, V of (m, n), m <= n, in float64 and then float32."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u.float(), s.float(), vh.T.contiguous().float()


def average(size: Size, factor: int) -> Linear:
    """Every `factor` x `factor` block becomes its mean. `size` must be a multiple of `factor`."""
    return _resampled(size, size[1] // factor, size[2] // factor, _area)


def bicubic(size: Size, height: int, width: int) -> Linear:
    """Antialiased bicubic reduction to `height` x `width`, as `torch.nn.functional.interpolate` and Pillow do it."""
    return _resampled(size, height, width, _bicubic)


def _resampled(size: Size, height: int, width: int, matrix: Callable[[int, int], Tensor]) -> Linear:
    if height > size[1] or width > size[2]:
        raise UsageError(f"a reduction cannot make {width}x{height} of {size[2]}x{size[1]} pixels")
    return Separable(matrix(height, size[1]), matrix(width, size[2]), size[0])


def _area(m: int, n: int) -> Tensor:
    """(m, n): output k is the mean of the inputs it touches."""
    matrix: Tensor = F.adaptive_avg_pool1d(torch.eye(n, dtype=torch.float64)[None], m)[0].T
    return matrix


def _bicubic(m: int, n: int) -> Tensor:
    """(m, n): output k as a sum of inputs."""
    eye = torch.eye(n, dtype=torch.float64)[None, None]
    return F.interpolate(eye, (m, n), mode="bicubic", antialias=True, align_corners=False)[0, 0]


class Grey(Linear):
    """y = w . x for every pixel: luma, (batch, 1, h, w). S = |w|, V = w / |w|, U = 1."""

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
    """Grey, whose estimates are corrected along grey instead of along w: colour differences stay as they are."""

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (y - self.forward(x))

    def within(self, x: Tensor, y: Tensor) -> Tensor:
        """y + k (x - luma(x)) with the largest k <= 1 at each pixel that lies in [-1, 1]: luma y, exactly."""
        colour = x - self.forward(x)
        room = torch.where(colour > 0, 1.0 - y, 1.0 + y).clamp_min(0.0) / colour.abs().clamp_min(1e-12)
        return y + room.amin(1, keepdim=True).clamp_max(1.0) * colour


class Blur(Linear):
    """y = k * x, a circular convolution with `kernel` (kh, kw), centred, by the fast Fourier transform.

    With k^ the kernel's spectrum: V = F^-1, S = |k^|, U = F^-1 k^ / |k^|.

    Raises:
        UsageError: a kernel larger than the picture.
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
        """y faded into k * y towards its edges, as far as the kernel reaches: opposite edges then meet.

        A lens does not blur in circles: what lies beyond the edge is not what lies at the opposite one, and undoing a
        circular blur rings there. The weight is 1 less the kernel's normalised autocorrelation (MATLAB's edgetaper;
        Reeves 2005 has the reason).
        """
        rows, columns = (_inside(profile, n).to(y) for profile, n in zip(self._profiles, self.size[1:], strict=True))
        inside = rows[:, None] * columns[None, :]
        return inside * y + (1.0 - inside) * self.forward(y)


def _inside(profile: Tensor, n: int) -> Tensor:
    """1 - acf(k) / acf(0) of a kernel's `profile` along one axis, circular, (n,): 0 at both edges, 1 out of reach."""
    power = torch.fft.rfft(profile.double(), max(n - 1, len(profile))).abs().square()
    acf = torch.fft.irfft(power, max(n - 1, len(profile)))
    acf = torch.cat([acf, acf[:1]])[:n]
    return (1.0 - acf / acf.max()).float()


class Quantise(Degradation):
    """y = the nearest of `levels` evenly spaced values in [-1, 1]. Not linear: y says an interval for every value."""

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
