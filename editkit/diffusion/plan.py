"""The trajectory as data: a plan is a list of moves between noise levels.

Levels are numbered 0 (clean) to `steps` (noisiest). A move t -> s is one of two kinds. A `flow` move is walked by the
sampler and calls the network: downward it denoises, upward it carries a picture to its noise (inversion). A `noise`
move goes up by the exact forward kernel, with fresh noise and without the network. SDEdit shortens a plan, RePaint
inserts noise moves, inversion walks up: no plugin ever writes a loop. Plans are integers only, so that cost is known
before any weight is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from editkit.errors import UsageError

Kind = Literal["flow", "noise"]
"""Who walks a move: the sampler, or the forward kernel."""


@dataclass(frozen=True)
class Move:
    """From level `t` to level `s` (indices).

    Raises:
        UsageError: a noise move that does not go up: the forward kernel cannot take noise away.
    """

    t: int
    s: int
    kind: Kind = "flow"

    def __post_init__(self) -> None:
        if self.kind == "noise" and self.s <= self.t:
            raise UsageError(f"a noise move must go up; this one goes from level {self.t} to {self.s}")

    @property
    def up(self) -> bool:
        """True when it ends at a noisier level."""
        return self.s > self.t

    @property
    def flows(self) -> bool:
        """True when the sampler walks it, with the network."""
        return self.kind == "flow"


@dataclass(frozen=True)
class Counting:
    """At which level a strength starts.

    Args:
        up: between two levels the upper one (`ModelInfo.rounds_up`), else the lower one.
        floats: by the product of floats, as diffusers: 0.29 of 100 levels are 28.999999999999996, and so 28. Otherwise
            a billionth of a level is no part of one, and they are 29.
    """

    up: bool = False
    floats: bool = False

    def level(self, steps: int, strength: float) -> int:
        """The level of a ladder of `steps`."""
        walked = min(steps * strength if self.floats else round(steps * strength, 9), steps)
        return steps - int(steps - walked) if self.up else int(walked)


BELOW = Counting()


@dataclass(frozen=True)
class Plan:
    """`moves` over a ladder of `steps + 1` levels; each begins where the one before it ended.

    A plan that ends above level 0 makes a noisy state, not a picture: the next stage goes on from there.
    `counting`: where a strength starts.
    """

    steps: int
    moves: tuple[Move, ...]
    counting: Counting = BELOW

    @classmethod
    def uniform(cls, steps: int, counting: Counting = BELOW) -> Plan:
        """One move a level, from the noisiest to the clean one: `steps` moves."""
        return cls(steps, _down(steps, 0), counting)

    @property
    def start(self) -> int:
        """The level the process starts from; 0 for an empty plan."""
        return self.moves[0].t if self.moves else 0

    @property
    def end(self) -> int:
        """The level the process ends at; 0 for an empty plan."""
        return self.moves[-1].s if self.moves else 0

    @property
    def top(self) -> int:
        """The noisiest level it comes to."""
        return max((max(move.t, move.s) for move in self.moves), default=0)

    @property
    def flow(self) -> tuple[Move, ...]:
        """The moves that call the network: windows and steps count these."""
        return tuple(move for move in self.moves if move.flows)

    def encode(self) -> Plan:
        """The way up instead: flow moves from the clean level to `start`, one a level.

        `plan.encode() + plan` carries a picture to its noise and back.
        """
        return replace(self, moves=tuple(Move(k, k + 1) for k in range(self.start)))

    def __add__(self, other: Plan) -> Plan:
        """This way, then `other` from where it ends.

        Raises:
            UsageError: `other` is for another ladder, or begins at another level.
        """
        if self.steps != other.steps or (self.moves and other.moves and self.end != other.start):
            raise UsageError(
                f"a way of {self.steps} levels that ends at level {self.end} cannot go on with one of {other.steps} "
                f"levels that begins at level {other.start}"
            )
        return replace(self, moves=self.moves + other.moves)

    def start_at(self, strength: float) -> Plan:
        """Drop everything above level floor(steps * strength), or what `counting` makes of it (SDEdit,
        Meng et al. 2021, arXiv:2108.01073).

        A strength of 1 is the identity, of 0 the empty plan.
        """
        level = self.counting.level(self.steps, strength)
        if level >= self.start:
            return self
        if level == 0:
            return replace(self, moves=())
        first = next(k for k, move in enumerate(self.moves) if move.t <= level)
        left = self.moves[first:]  # a way that climbs above the level, and comes back to it, is left out
        return replace(self, moves=tuple(move for move in left if max(move.t, move.s) <= level))

    def travel(self, jump: int, repeats: int, first: int = 1) -> Plan:
        """Go back up `jump` levels and down again, so that every stretch is walked `repeats` times.

        RePaint's resampling (Lugmayr et al. 2022, arXiv:2201.09865, Algorithm 1 and appendix B): on first arrival at
        the levels 1, 1 + jump, 1 + 2 jump, ... that have `jump` levels of the plan above them. `travel(j, 1)` is the
        identity; 250 steps with jump 10 and 10 repeats are 4,570 moves, of which 2,410 call the network. `first` 0 is
        diffusers' RePaintScheduler: levels 0, jump, 2 jump, ...
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
