"""Randomness that belongs to someone: every plugin, the sampler and the start draw from streams of their own.

A stream is keyed by (seed, stage, draw, box, try, owner), so adding a plugin does not change the noise of the others,
and no two pictures share a sample. Noise is always drawn on the CPU in float32 and then moved, so that a picture does
not depend on the device. There is no global seeding.

A key is a digest of 128 bits, so all bits of a seed count. The bits come from Philox (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), which numpy keeps the same from version to version. What numpy and torch make of
bits may change between versions (their compatibility policies), so normal numbers are made of them here.
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
"""Pairs of numbers that are made at once, so that what they are made of stays in the cache."""


class Generator(Protocol):
    """What a stream draws from: its state can be read and set, to draw again; `torch.Generator` is one."""

    def get_state(self) -> Any:
        """Where it stands."""
        ...

    def set_state(self, state: Any) -> Any:
        """Go back to where it stood."""
        ...


class Stream(Protocol):
    """Standard normal numbers, for one owner."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """N(0, 1), float32 on the CPU, of `shape` (batch, ...)."""
        ...

    @property
    def generators(self) -> tuple[Generator, ...]:
        """One generator for the whole batch, or one for each item."""
        ...


class Philox:
    """Normal numbers from Philox4x64-10 under a key of 128 bits.

    64 bits make two numbers (Box and Muller 1958): sqrt(-2 log u) (cos v, sin v), u of the upper 32 bits, v of the
    lower ones. Computed in float64; the largest is 6.8.
    """

    def __init__(self, key: int) -> None:
        self._key = key

    @cached_property
    def _bits(self) -> np.random.Philox:
        """Made when it is first drawn from: most streams never are."""
        return np.random.Philox(key=self._key)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """N(0, 1), float32, of `shape`; an odd number of them leaves half a pair unused."""
        count = math.prod(shape)
        made = np.empty((count + 1) // 2 * 2, np.float32)
        for at in range(0, len(made), 2 * CHUNK):
            _pairs(self._bits, made[at : at + 2 * CHUNK])
        return torch.from_numpy(made[:count]).reshape(tuple(shape))

    def get_state(self) -> Any:
        return self._bits.state

    def set_state(self, state: Any) -> None:
        self._bits.state = state


def _pairs(bits: np.random.Philox, made: NDArray[np.float32]) -> None:
    """Fill `made`, of even length, with normal numbers."""
    raw = np.asarray(bits.random_raw(len(made) // 2))
    radius = np.sqrt(-2.0 * np.log(((raw >> np.uint64(32)) + 0.5) * 2.0**-32))
    angle = (raw & np.uint64(0xFFFFFFFF)) * (math.tau * 2.0**-32)
    made[0::2], made[1::2] = radius * np.cos(angle), radius * np.sin(angle)


@dataclass(frozen=True)
class _Stream:
    generators: tuple[Philox, ...]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return _by_item(self.generators, shape, Philox.normal)


def _by_item(generators: Sequence[G], shape: Sequence[int], normal: Callable[[G, Sequence[int]], Tensor]) -> Tensor:
    """`shape` by the one generator there is, or item by item from theirs."""
    if len(generators) == 1:
        return normal(generators[0], shape)
    if len(generators) != shape[0]:
        raise ValueError(f"{len(generators)} seeds for a batch of {shape[0]}: one seed an item, or one for all")
    return torch.cat([normal(generator, (1, *shape[1:])) for generator in generators])


class Noise(Protocol):
    """Where streams come from."""

    def stream(self, owner: str) -> Stream:
        """The stream of `owner`, always at its beginning state the first time it is asked for."""
        ...


@dataclass(frozen=True)
class Streams:
    """A stream for every owner.

    Args:
        seeds: one seed for the whole batch, or one an item: then item k has the noise it would have alone.
        stage: the number of the stage in the chain.
        draw: of the samples that a mean is taken of (`Options.samples`).
        box: the number of the part of the picture that is worked on.
        attempt: another start of the same pass (`Options.tries`).
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
        """128 bits of the seed and of all that a stream belongs to."""
        said = f"{seed}/{self.stage}/{self.draw}/{self.box}/{self.attempt}/{owner}"
        return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=16).digest(), "big")


@dataclass(frozen=True)
class _MersenneStream:
    generators: tuple[torch.Generator, ...]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return _by_item(
            self.generators, shape, lambda g, shape: torch.randn(tuple(shape), generator=g, dtype=torch.float32)
        )


@dataclass(frozen=True)
class MersenneStreams:
    """The streams of recipes and results that say `editkit: 1`, kept so that those are made again.

    torch's generator keeps 32 bits of what it is seeded with, so that some seeds have one picture; the tries of two
    boxes begin alike.
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
class Apart:
    """The streams of `rest`, but `owner`'s of `base`."""

    base: Noise
    rest: Noise
    owner: str

    def stream(self, owner: str) -> Stream:
        return (self.base if owner == self.owner else self.rest).stream(owner)


@dataclass(frozen=True)
class OneStream:
    """One CPU generator that everybody draws from in turn: the order of draws of a diffusers pipeline."""

    generator: torch.Generator

    @classmethod
    def seeded(cls, seed: int) -> OneStream:
        """As `torch.Generator("cpu").manual_seed(seed)` handed to a diffusers pipeline."""
        return cls(torch.Generator("cpu").manual_seed(seed))

    def stream(self, owner: str) -> Stream:
        return _MersenneStream((self.generator,))
