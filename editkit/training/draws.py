"""Random numbers drawn on the device that uses them, equal on CPU and GPU.

Number i of call k at (seed, step, ...) is a hash of only these integers (a counter-based generator: Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"; the hash is SplitMix64's finaliser: Steele, Lea & Flood 2014). So
resuming needs no stored state, and nothing is copied between devices. Uniform numbers are bit-identical everywhere,
normal ones up to the rounding of log, sin and cos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Generator, Tensor

_GOLDEN, _A, _B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 2**64 - 1


class Source(Protocol):
    """A source of random numbers."""

    @property
    def device(self) -> torch.device: ...

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1), fp32, multiples of 2^-24."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """Draw from N(0, 1), fp32."""
        ...

    def scalar(self) -> float:
        """Draw one number in [0, 1), available immediately on the host."""
        ...


def _to_int64(word: int) -> int:
    """Convert a 64-bit word to torch's int64."""
    return word - 2**64 if word >= 2**63 else word


def _mix_bits(z: int) -> int:
    z = ((z ^ (z >> 30)) * _A) & _WORD
    z = ((z ^ (z >> 27)) * _B) & _WORD
    return z ^ (z >> 31)


def _shift_right(z: Tensor, by: int) -> Tensor:
    """Shift right with zeros; torch's own shift repeats the sign."""
    shifted: Tensor = (z >> by) & (2 ** (64 - by) - 1)
    return shifted


def _hash_words(z: Tensor) -> Tensor:
    """`_mix_bits` of every int64; products wrap around."""
    z = (z ^ _shift_right(z, 30)) * _to_int64(_A)
    z = (z ^ _shift_right(z, 27)) * _to_int64(_B)
    return z ^ _shift_right(z, 31)


class Draws:
    """A `Source` that depends only on its key, such as (seed, step, stream), and on the number of earlier calls."""

    def __init__(self, key: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.key = 0
        for number in key:
            self.key = _mix_bits((self.key + (number + 1) * _GOLDEN) & _WORD)
        self._calls = 0

    def _next(self) -> int:
        self._calls += 1
        return _mix_bits((self.key + self._calls * _GOLDEN) & _WORD)

    def _bits(self, count: int) -> Tensor:
        index = torch.arange(1, count + 1, device=self.device)
        return _hash_words(index * _to_int64(_GOLDEN) + _to_int64(self._next()))

    def uniform(self, *shape: int) -> Tensor:
        return _shift_right(self._bits(math.prod(shape)), 40).float().mul(2.0**-24).view(shape)

    def normal(self, *shape: int) -> Tensor:
        """Draw by the Box-Muller method: two numbers from each 64 bits."""
        count = math.prod(shape)
        bits = self._bits((count + 1) // 2)
        radius = ((_shift_right(bits, 32) + 1).float() * 2.0**-32).log().mul(-2.0).sqrt()
        angle = ((bits >> 8) & (2**24 - 1)).float() * (2.0 * math.pi * 2.0**-24)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count].view(shape)

    def scalar(self) -> float:
        return (self._next() >> 40) * 2.0**-24


class Seeded:
    """A `Source` on the host, from torch's generator."""

    def __init__(self, generator: Generator) -> None:
        self.device = torch.device("cpu")
        self._generator = generator

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def scalar(self) -> float:
        return float(torch.rand((), generator=self._generator))


def uniform_between(low: float, high: float, source: Source, *shape: int) -> Tensor:
    """Draw uniformly from [low, high)."""
    return low + (high - low) * source.uniform(*shape)


def split_count(count: int, shares: Sequence[float], source: Source) -> list[int]:
    """Split `count` by `shares`, each within one of share * count and exact in the mean (systematic sampling)."""
    lot, reached, ends = source.scalar(), 0.0, [0]
    for share in shares:
        reached += share
        ends.append(max(0, math.ceil(reached / sum(shares) * count - lot - 1e-9)))
    ends[-1] = count
    return [b - a for a, b in pairwise(ends)]
