"""The trajectory as data: a plan is a list of moves between noise levels.

Levels are numbered 0 (clean) to `steps` (noisiest). A move t -> s with s < t denoises and calls the network; one with
s > t adds noise back by the exact forward kernel. SDEdit shortens a plan, RePaint inserts moves upward: no plugin ever
writes a loop. Plans are integers only, so that cost is known before any weight is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Move:
    """From level `t` to level `s` (indices)."""

    t: int
    s: int

    @property
    def up(self) -> bool:
        """True when the move adds noise back."""
        return self.s > self.t


@dataclass(frozen=True)
class Plan:
    """`moves` over a ladder of `steps + 1` levels. Moves are adjacent; a plan that is not empty ends at level 0.

    `rounds_up`: a strength that lies between two levels starts from the upper one (`ModelInfo.rounds_up`).
    """

    steps: int
    moves: tuple[Move, ...]
    rounds_up: bool = False

    @classmethod
    def uniform(cls, steps: int, rounds_up: bool = False) -> Plan:
        """One move a level, from the noisiest to the clean one: `steps` moves."""
        return cls(steps, _down(steps, 0), rounds_up)

    @property
    def start(self) -> int:
        """The level the process starts from; 0 for an empty plan."""
        return self.moves[0].t if self.moves else 0

    @property
    def downward(self) -> tuple[Move, ...]:
        """The moves that denoise."""
        return tuple(move for move in self.moves if not move.up)

    def start_at(self, strength: float) -> Plan:
        """Drop everything above level floor(steps * strength), or the one above it for a plan that rounds up (SDEdit,
        Meng et al. 2021, arXiv:2108.01073).

        A strength of 1 is the identity, of 0 the empty plan.
        """
        walked = min(self.steps * strength, self.steps)
        level = self.steps - int(self.steps - walked) if self.rounds_up else int(walked)
        if level >= self.start:
            return self
        if level == 0:
            return replace(self, moves=())
        first = next(k for k, move in enumerate(self.moves) if move.t <= level)
        return replace(self, moves=self.moves[first:])

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
                moves.extend(_up(s, s + jump))
                moves.extend(_down(s + jump, s))
        return replace(self, moves=tuple(moves))

    def __iter__(self) -> Iterator[Move]:
        return iter(self.moves)

    def __len__(self) -> int:
        return len(self.moves)


def _down(t: int, s: int) -> tuple[Move, ...]:
    return tuple(Move(k, k - 1) for k in range(t, s, -1))


def _up(t: int, s: int) -> tuple[Move, ...]:
    return tuple(Move(k, k + 1) for k in range(t, s))
