"""Random numbers: every plugin, the sampler and the initial noise have noise streams of their own.

A stream is keyed by (seed, stage, draw, box, try, owner). Adding a plugin therefore does not change the noise of the
others, and no two pictures share a sample. Noise is always drawn on the CPU in float32 and then moved, so that results
do not depend on the device. There is no global seeding.

A key is a digest of 128 bits, so all bits of a seed count. Random bits come from Philox (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), which numpy keeps stable between versions. The conversion of bits to normal
numbers in numpy and torch may change between versions (by their compatibility policies), so it is done here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

G = TypeVar("G")

CHUNK = 1 << 14
"""Pairs of numbers made at a time, so that intermediate results stay in the CPU's cache."""


class Generator(Protocol):
    """A random generator whose state can be saved and restored, such as `torch.Generator`."""

    def get_state(self) -> Any:
        """Return the state."""
        ...

    def set_state(self, state: Any) -> Any:
        """Restore a state."""
        ...


class Stream(Protocol):
    """A stream of standard normal numbers for one owner."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw N(0, 1), float32 on the CPU, of `shape` (batch, ...)."""
        ...

    @property
    def generators(self) -> tuple[Generator, ...]:
        """One generator for the whole batch, or one for each item."""
        ...


class Philox:
    """Normal numbers from Philox4x64-10 under a key of 128 bits.

    64 bits give two numbers (Box and Muller 1958): sqrt(-2 log u) (cos v, sin v), with u from the upper and v from the
    lower 32 bits. They are computed in float64; the largest possible is 6.8.
    """

    def __init__(self, key: int) -> None:
        self._key = key

    @cached_property
    def _bits(self) -> np.random.Philox:
        """The bit generator, created on first use: most streams are never used."""
        return np.random.Philox(key=self._key)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw N(0, 1), float32, of `shape`; an odd count leaves half a pair unused."""
        count = math.prod(shape)
        made = np.empty((count + 1) // 2 * 2, np.float32)
        for at in range(0, len(made), 2 * CHUNK):
            _fill_normal_pairs(self._bits, made[at : at + 2 * CHUNK])
        return torch.from_numpy(made[:count]).reshape(tuple(shape))

    def get_state(self) -> Any:
        return self._bits.state

    def set_state(self, state: Any) -> None:
        self._bits.state = state


def _fill_normal_pairs(bits: np.random.Philox, made: NDArray[np.float32]) -> None:
    """Fill `made`, of even length, with normal numbers, in place."""
    raw = np.asarray(bits.random_raw(len(made) // 2))
    radius = np.sqrt(-2.0 * np.log(((raw >> np.uint64(32)) + 0.5) * 2.0**-32))
    angle = (raw & np.uint64(0xFFFFFFFF)) * (math.tau * 2.0**-32)
    made[0::2], made[1::2] = radius * np.cos(angle), radius * np.sin(angle)


@dataclass(frozen=True)
class _Stream:
    generators: tuple[Philox, ...]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return _draw_by_item(self.generators, shape, Philox.normal)


def _draw_by_item(
    generators: Sequence[G], shape: Sequence[int], normal: Callable[[G, Sequence[int]], Tensor]
) -> Tensor:
    """Draw `shape` from a single generator, or item by item from one generator each."""
    if len(generators) == 1:
        return normal(generators[0], shape)
    if len(generators) != shape[0]:
        raise ValueError(f"{len(generators)} seeds for a batch of {shape[0]}: give one seed an item, or one for all")
    return torch.cat([normal(generator, (1, *shape[1:])) for generator in generators])


class Noise(Protocol):
    """The source of noise streams."""

    def stream(self, owner: str) -> Stream:
        """Return the stream of `owner`; on first use it is in its initial state."""
        ...


@dataclass(frozen=True)
class Streams:
    """A separate stream for every owner.

    Args:
        seeds: one seed for the whole batch, or one for each item, which then has the noise that it would have alone.
        stage: number of the stage in the chain.
        draw: number of the sample, if a mean is taken (`Options.samples`).
        box: number of the part of the picture.
        attempt: number of the try of the same pass (`Options.tries`).
    """

    seeds: tuple[int, ...]
    stage: int = 0
    draw: int = 0
    box: int = 0
    attempt: int = 0
    _made: dict[str, Stream] = field(default_factory=dict, repr=False, compare=False)

    def stream(self, owner: str) -> Stream:
        if owner not in self._made:
            self._made[owner] = _Stream(tuple(Philox(self.key(seed, owner)) for seed in self.seeds))
        return self._made[owner]

    def key(self, seed: int, owner: str) -> int:
        """Hash the seed and all properties of a stream to 128 bits."""
        text = f"{seed}/{self.stage}/{self.draw}/{self.box}/{self.attempt}/{owner}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


@dataclass(frozen=True)
class _MersenneStream:
    generators: tuple[torch.Generator, ...]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return _draw_by_item(
            self.generators, shape, lambda g, shape: torch.randn(tuple(shape), generator=g, dtype=torch.float32)
        )


@dataclass(frozen=True)
class MersenneStreams:
    """The streams of recipes and results that say `editkit: 1`, kept to reproduce them.

    torch's generator keeps only 32 bits of its seed, so some seeds give the same picture; and the tries of two boxes
    start with the same noise.
    """

    seeds: tuple[int, ...]
    stage: int = 0
    attempt: int = 0
    _made: dict[str, Stream] = field(default_factory=dict, repr=False, compare=False)

    def stream(self, owner: str) -> Stream:
        if owner not in self._made:
            self._made[owner] = _MersenneStream(tuple(self._generator(seed, owner) for seed in self.seeds))
        return self._made[owner]

    def _generator(self, seed: int, owner: str) -> torch.Generator:
        again = f"/{self.attempt}" if self.attempt else ""
        digest = hashlib.blake2b(f"{seed}/{self.stage}/{owner}{again}".encode(), digest_size=8).digest()
        generator = torch.Generator("cpu")
        generator.manual_seed(int.from_bytes(digest, "big") >> 1)
        return generator


@dataclass(frozen=True)
class OwnerOverride:
    """The streams of `rest`, except that of `owner`, which comes from `base`."""

    base: Noise
    rest: Noise
    owner: str

    def stream(self, owner: str) -> Stream:
        return (self.base if owner == self.owner else self.rest).stream(owner)


@dataclass(frozen=True)
class OneStream:
    """One CPU generator for all owners, used in the order of draws of a diffusers pipeline."""

    generator: torch.Generator

    @classmethod
    def seeded(cls, seed: int) -> OneStream:
        """Create it as `torch.Generator("cpu").manual_seed(seed)`, the generator of a diffusers pipeline."""
        return cls(torch.Generator("cpu").manual_seed(seed))

    def stream(self, owner: str) -> Stream:
        return _MersenneStream((self.generator,))
