"""Null-text inversion (Mokady et al. 2023, arXiv:2211.09794).

The embedding e of "no text" is optimised at each level, so that the guided way down retraces the unguided way up. Let
z*_t be the states of the way up at scale 1, and z_t(e) those of the way down at scale w:

    e_t = argmin |z*_s - z_s(z_t, e)|^2,   z_s(z_t, e) = the sampler's move by out(e) + w (out(prompt) - out(e)).

The optimiser is Adam with N steps, started from the e of the level before, with learning rate 0.01 (1 - k / 2n) in move
k of n, as in the paper. The paper stops early if the loss is small; here all N steps are made, so that their number is
known beforehand. If the model's distribution only shifts with the text, the optimum is the prompt's own embedding (a
test), and the path is that of scale 1. Pooled embeddings and masks stay those of "no text".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from editkit.diffusion.conditioning import with_own_words
from editkit.diffusion.samplers import WrappedSampler
from editkit.models.prompts.shown import by_branch
from editkit.plugin import (
    ChainError,
    Conditioning,
    FoldsGuidance,
    Level,
    Move,
    Prompt,
    ReadsText,
    Run,
    Sampler,
    Step,
    capability,
)
from editkit_plugins.cfg import combine_folded

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Prediction

RATE = 0.01
"""Adam's learning rate in the first move, as in the paper."""


@dataclass(frozen=True)
class Learning(WrappedSampler):
    """`inner` with the cost of learning: `iterations` + 1 further network calls in each move down."""

    iterations: int

    def calls(self, move: Move) -> int:
        return self.inner.calls(move) + (0 if move.up else self.iterations + 1)


def guided_by(run: Run) -> float:
    """Return the guidance scale of the run.

    Raises:
        ChainError: the run is not guided by two predictions.
    """
    info = run.model.info
    scale = info.guidance if run.options.guidance_scale is None else run.options.guidance_scale
    is_guided = info.distilled or "guidance" in info.takes
    if "prompt" not in info.takes or is_guided or scale == 1.0:
        why = (
            f"{info.name} takes no text" if "prompt" not in info.takes
            else f"{info.name} is guided in one call" if is_guided
            else "--guidance-scale is 1"
        )  # fmt: skip
        raise ChainError(f"invert --null-text corrects for guidance by two predictions, but {why}; leave it out")
    return scale


class NullText:
    """The null-text embeddings of a run: level index -> (batch, tokens, width), learnt when first needed.

    Raises:
        ChainError: there is no guidance, or the sampler calls the network more than once in a move.
    """

    def __init__(self, run: Run, iterations: int, rule: Sampler) -> None:
        self.run, self.iterations, self.rule = run, iterations, rule
        self.scale = guided_by(run)
        if rule.calls(Move(2, 1)) != 1:
            raise ChainError(f"invert --null-text needs a sampler with one call a move, ddim or euler; not {rule.name}")
        self.states: dict[int, Tensor] = {}
        self.learnt: dict[int, Tensor] = {}
        self.empty = empty_prompt(run)

    def passed(self, index: int, x: Tensor) -> None:
        """Store the state x, (batch, channels, ...), that the way up reached at level `index`."""
        self.states[index] = x.detach()

    def negative(self, step: Step, cond: Conditioning) -> Prompt:
        """Return the embedding of "no text" for this move down; learn it if needed."""
        if step.move.t not in self.learnt:
            self.learnt[step.move.t] = self._learn(step, cond)
        return replace(self.empty, embeds=self.learnt[step.move.t].to(self.empty.embeds.dtype))

    def _learn(self, step: Step, cond: Conditioning) -> Tensor:
        import torch

        model, x_t, move = self.run.model, step.x_t.detach(), step.move
        s, wanted = self.run.levels[move.s], self.states[move.s]
        before = self.learnt.get(move.t + 1)
        if before is None:
            before = self.empty.embeds.expand(len(x_t), -1, -1).float()
        e = before.detach().clone().requires_grad_()
        total = self.run.plan.top
        adam = torch.optim.Adam([e], lr=RATE * (1.0 - (total - move.t) / (2.0 * total)))
        (with_text,) = model(x_t, step.t, (cond,))
        folds = capability(model, FoldsGuidance)
        for _ in range(self.iterations):
            with torch.enable_grad():
                (without,) = model(x_t, step.t, (self._unconditional(cond, e),))
                made = combine_folded(without, with_text, self.scale, x_t, step.t, folds)
                x_s = self._take_step(x_t, step.t, s, made)
                loss = (x_s - wanted).square().flatten(1).mean(1).sum()
                (e.grad,) = torch.autograd.grad(loss, e)
            adam.step()
        return e.detach()

    def _unconditional(self, cond: Conditioning, e: Tensor) -> Conditioning:
        """Return the unconditional branch of guidance with the embedding `e`.

        Its image prompts, embeddings and ControlNets are those that it has when both branches are evaluated together.
        """
        none = replace(self.empty, embeds=e.to(self.empty.embeds.dtype))
        branches = [replace(cond, prompt=none, negative=none), cond]
        return with_own_words(by_branch(branches))[0]

    def _take_step(self, x_t: Tensor, t: Level, s: Level, made: Prediction) -> Tensor:
        return self.rule.step(x_t, t, s, lambda x, level: made, _no_noise, None)[0]


def empty_prompt(run: Run) -> Prompt:
    """Encode "no text", or the negative prompt if one is given."""
    reads = capability(run.model, ReadsText)
    if reads is None:
        raise ChainError(f"invert --null-text: {run.model.info.name} has no encode_text")
    return reads.encode_text(run.options.negative or "")[0]


def _no_noise(t: Level, s: Level) -> Tensor:
    raise ChainError("invert --null-text needs a sampler that draws no noise: ddim or euler")
