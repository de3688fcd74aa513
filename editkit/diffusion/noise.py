"""Randomness that belongs to someone: every plugin, the sampler and the start draw from streams of their own.

A stream is seeded by (seed, stage, owner), so adding a plugin does not change the noise of the others. Noise is always
drawn on the CPU in float32 and then moved, so that a picture does not depend on the device. There is no global seeding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Stream(Protocol):
    """Standard normal numbers, for one owner."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """N(0, 1), float32 on the CPU, of `shape` (batch, ...)."""
        ...

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """One generator for the whole batch, or one for each item."""
        ...


@dataclass(frozen=True)
class _Stream:
    generators: tuple[torch.Generator, ...]

    def normal(self, shape: Sequence[int]) -> Tensor:
        if len(self.generators) == 1:
            return torch.randn(tuple(shape), generator=self.generators[0], dtype=torch.float32)
        if len(self.generators) != shape[0]:
            raise ValueError(
                f"{len(self.generators)} seeds for a batch of {shape[0]}: one seed an item, or one for all"
            )
        return torch.cat([torch.randn((1, *shape[1:]), generator=g, dtype=torch.float32) for g in self.generators])


class Noise(Protocol):
    """Where streams come from."""

    def stream(self, owner: str) -> Stream:
        """The stream of `owner`, always at its beginning state the first time it is asked for."""
        ...


@dataclass(frozen=True)
class Streams:
    """A stream for every owner, seeded by (seed, stage, owner).

    Args:
        seeds: one seed for the whole batch, or one an item: then item k has the noise it would have alone.
        stage: the number of the stage in the chain.
        attempt: other streams for another start of the same pass (`Options.tries`).
    """

    seeds: tuple[int, ...]
    stage: int = 0
    attempt: int = 0
    _made: dict[str, Stream] = field(default_factory=dict, repr=False, compare=False)

    def stream(self, owner: str) -> Stream:
        if owner not in self._made:
            self._made[owner] = _Stream(tuple(self._generator(seed, owner) for seed in self.seeds))
        return self._made[owner]

    def _generator(self, seed: int, owner: str) -> torch.Generator:
        again = f"/{self.attempt}" if self.attempt else ""
        digest = hashlib.blake2b(f"{seed}/{self.stage}/{owner}{again}".encode(), digest_size=8).digest()
        generator = torch.Generator("cpu")
        generator.manual_seed(int.from_bytes(digest, "big") >> 1)
        return generator


@dataclass(frozen=True)
class OneStream:
    """One CPU generator that everybody draws from in turn: the order of draws of a diffusers pipeline."""

    generator: torch.Generator

    @classmethod
    def seeded(cls, seed: int) -> OneStream:
        """As `torch.Generator("cpu").manual_seed(seed)` handed to a diffusers pipeline."""
        return cls(torch.Generator("cpu").manual_seed(seed))

    def stream(self, owner: str) -> Stream:
        return _Stream((self.generator,))
