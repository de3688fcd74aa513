"""What a process costs, counted from the declarations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editkit.diffusion.plan import Plan
from editkit.diffusion.samplers import Sampler
from editkit.plugin.protocol import Plugin


@dataclass(frozen=True)
class Cost:
    """What a process costs: evaluations of the network, backward passes at most, and those that go through the network.

    An energy may leave out a step, and where alpha_t is nearly 0 none goes through the network. `beside`: evaluations
    of plugins' own networks, as many as the model's where they act (a hint in guess mode then has a smaller batch, and
    by windows each is a batch of them).
    """

    calls: int
    backward: int
    deep: int
    beside: int = 0


def cost(plan: Plan, plugins: Sequence[Plugin], sampler: Sampler) -> Cost:
    """The cost of a process: energies share a backward pass, apart from those that need one of their own."""
    walked = plan.flow
    own = [p for p in plugins if "sampler" in p.claims()]
    energies = [p for p in plugins if "energy" in p.uses()]
    alone = [p for p in energies if p.alone()]
    shared = [p for p in energies if not p.alone()]
    calls = backward = deep = beside = 0
    for index, move in enumerate(walked):
        n = own[0].calls(move) if own else sampler.calls(move)
        groups = [[p] for p in alone] + [shared]
        acting = [[p for p in group if p.acts(index, len(walked))] for group in groups]
        calls += n
        beside += n * sum(p.beside() for p in plugins if p.acts(index, len(walked)))
        backward += n * sum(bool(group) for group in acting)
        deep += n * sum(any(p.through() == "network" for p in group) for group in acting)
    return Cost(calls, backward, deep, beside)
