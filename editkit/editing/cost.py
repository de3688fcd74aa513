"""The cost of a process, computed from the declarations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editkit.diffusion.model import ModelInfo, Pass
from editkit.diffusion.plan import Plan
from editkit.diffusion.samplers import Sampler
from editkit.plugin.protocol import Plugin


@dataclass(frozen=True)
class Cost:
    """The cost of a process: network evaluations, backward passes at most, and how many of them go through the network.

    An energy may skip a step, and where alpha_t is nearly 0 none goes through the network. `beside` counts evaluations
    of plugins' own networks, as many as the model's where they act (with smaller batches in guess mode, and with one
    batch for each group of windows).
    """

    calls: int
    backward: int
    deep: int
    beside: int = 0


@dataclass(frozen=True)
class PassPlan:
    """One planned pass of a stage: its box, its plan, and its cost.

    `attempt` numbers tries of the same pass with different noise; the best one is kept (`editkit.editing.coherence`).
    """

    at: Pass
    plan: Plan
    cost: Cost
    attempt: int = 0


def cost(plan: Plan, plugins: Sequence[Plugin], sampler: Sampler, info: ModelInfo | None = None) -> Cost:
    """Compute the cost of a process: energies share a backward pass, except those that need a separate one.

    Energies that do not act with the model `info` cost nothing; None: all act.
    """
    walked = plan.flow
    own = [p for p in plugins if "sampler" in p.claims()]
    energies = [p for p in plugins if "energy" in p.uses() and (info is None or p.steers(info))]
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
