"""Plans: the trajectory of a process as a list of moves between noise levels.

Levels are numbered from 0 (clean) to `steps` (noisiest). A move t -> s is of one of two kinds. A `flow` move is made by
the sampler and calls the network: downward it denoises, upward it maps a picture to its noise (inversion). A `noise`
move goes up by the exact forward kernel, with fresh noise and without the network. SDEdit shortens a plan, RePaint
inserts noise moves, inversion goes up; plugins need no loops of their own. Plans consist of integers, so the cost is
known before any weights are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from editkit.errors import UsageError

Kind = Literal["flow", "noise"]
"""What makes a move: the sampler (`flow`), or the forward kernel (`noise`)."""


@dataclass(frozen=True)
class Move:
    """A move from level `t` to level `s` (indices).

    Raises:
        UsageError: a noise move does not go up; the forward kernel cannot remove noise.
    """

    t: int
    s: int
    kind: Kind = "flow"

    def __post_init__(self) -> None:
        if self.kind == "noise" and self.s <= self.t:
            raise UsageError(f"a noise move must go up; this one goes from level {self.t} to {self.s}")

    @property
    def up(self) -> bool:
        """Whether it ends at a noisier level."""
        return self.s > self.t

    @property
    def flows(self) -> bool:
        """Whether the sampler makes it, with the network."""
        return self.kind == "flow"


@dataclass(frozen=True)
class Counting:
    """How a strength is rounded to a level.

    Args:
        up: round up to the next level (`ModelInfo.rounds_up`), else down.
        floats: use the plain floating-point product, as diffusers does: 0.29 of 100 levels are 28.999999999999996, and
            so 28. Otherwise rounding errors below a billionth of a level are removed first, and they are 29.
    """

    up: bool = False
    floats: bool = False

    def level(self, steps: int, strength: float) -> int:
        """Return the level at which `strength` starts, of `steps` levels."""
        walked = min(steps * strength if self.floats else round(steps * strength, 9), steps)
        return steps - int(steps - walked) if self.up else int(walked)


BELOW = Counting()


@dataclass(frozen=True)
class Plan:
    """A sequence of `moves` over `steps + 1` levels; each move begins where the one before it ended.

    A plan that ends above level 0 results in a noisy state, not a picture, from which the next stage continues.
    `counting` says how a strength is rounded to a level.
    """

    steps: int
    moves: tuple[Move, ...]
    counting: Counting = BELOW

    @classmethod
    def uniform(cls, steps: int, counting: Counting = BELOW) -> Plan:
        """Return the plan from the noisiest to the clean level, in `steps` moves."""
        return cls(steps, _down(steps, 0), counting)

    @property
    def start(self) -> int:
        """The level at which the process starts; 0 for an empty plan."""
        return self.moves[0].t if self.moves else 0

    @property
    def end(self) -> int:
        """The level at which the process ends; 0 for an empty plan."""
        return self.moves[-1].s if self.moves else 0

    @property
    def top(self) -> int:
        """The noisiest level that it reaches."""
        return max((max(move.t, move.s) for move in self.moves), default=0)

    @property
    def flow(self) -> tuple[Move, ...]:
        """The moves that call the network; plugins' windows and steps count these."""
        return tuple(move for move in self.moves if move.flows)

    def encode(self) -> Plan:
        """Return the way up: flow moves from the clean level to `start`, one for each level.

        `plan.encode() + plan` maps a picture to its noise and back.
        """
        return replace(self, moves=tuple(Move(k, k + 1) for k in range(self.start)))

    def __add__(self, other: Plan) -> Plan:
        """Append the moves of `other`.

        Raises:
            UsageError: `other` has another number of levels, or begins at another level than this plan ends.
        """
        if self.steps != other.steps or (self.moves and other.moves and self.end != other.start):
            raise UsageError(
                f"a plan of {self.steps} levels that ends at level {self.end} cannot continue with one of "
                f"{other.steps} levels that begins at level {other.start}"
            )
        return replace(self, moves=self.moves + other.moves)

    def start_at(self, strength: float) -> Plan:
        """Drop the moves above level floor(steps * strength), rounded as `counting` says.

        SDEdit, Meng et al. 2021, arXiv:2108.01073. Strength 1 is the identity, 0 gives the empty plan.
        """
        level = self.counting.level(self.steps, strength)
        if level >= self.start:
            return self
        if level == 0:
            return replace(self, moves=())
        first = next(k for k, move in enumerate(self.moves) if move.t <= level)
        left = self.moves[first:]  # drops excursions above the level
        return replace(self, moves=tuple(move for move in left if max(move.t, move.s) <= level))

    def travel(self, jump: int, repeats: int, first: int = 1) -> Plan:
        """Insert jumps: go back up `jump` levels and down again, so that every stretch is run `repeats` times.

        RePaint's resampling (Lugmayr et al. 2022, arXiv:2201.09865, Algorithm 1 and appendix B). Jumps start on first
        arrival at the levels 1, 1 + jump, 1 + 2 jump, ..., if the plan has `jump` levels above. `travel(j, 1)` is the
        identity; 250 steps with jump 10 and 10 repeats are 4,570 moves, of which 2,410 call the network. `first` 0 is
        diffusers' RePaintScheduler, with levels 0, jump, 2 jump, ...
        """
        moves: list[Move] = []
        seen: set[int] = set()
        for move in self.moves:
            moves.append(move)
            s = move.s
            if move.up or s in seen or s < first or (s - first) % jump or s - first + jump >= self.start:
                continue
            seen.add(s)
            for _ in range(repeats - 1):
                moves.extend(_noise(s, s + jump))
                moves.extend(_down(s + jump, s))
        return replace(self, moves=tuple(moves))

    def __iter__(self) -> Iterator[Move]:
        return iter(self.moves)

    def __len__(self) -> int:
        return len(self.moves)


def _down(t: int, s: int) -> tuple[Move, ...]:
    return tuple(Move(k, k - 1) for k in range(t, s, -1))


def _noise(t: int, s: int) -> tuple[Move, ...]:
    return tuple(Move(k, k + 1, "noise") for k in range(t, s))
