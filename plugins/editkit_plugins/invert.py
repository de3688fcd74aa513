"""Inversion: map a picture to its noise by the deterministic flow, and back.

Every reversible sampler also runs upward, from clean to noise (DDIM inversion, Song et al. 2020, arXiv:2010.02502,
section 5.4). In both directions a move evaluates the network at the level that it leaves, so the round trip has an
error of the sampler's order.

`refine` N solves each move up for the state from which the move down returns exactly (AIDI, Pan et al. 2023,
arXiv:2309.04907; ReNoise, Garibi et al. 2024, arXiv:2403.14602), by N fixed-point iterations a move:

    x_s <- x_s + c (x_t - down(x_s)),   c^2 = (d^2 alpha_s^2 + sigma_s^2) / (d^2 alpha_t^2 + sigma_t^2),

where down is the sampler's own move from s to t and d is the standard deviation of clean data; on N(0, d^2) one
iteration is nearly enough. With c = alpha_s / alpha_t and ddim this is AIDI's iteration, which makes no progress at
alpha_s = 0. On a network the iteration need not contract: an iterate with a larger error than the best one so far is
dropped, and c is halved.

Guidance amplifies the difference between the predictions with and without text, and with it the error of every move.
`null_text` goes up without guidance and learns an embedding in place of "no text" that leads back to the picture
(`editkit_plugins.null_text`). `source` uses the picture's own description in place of "no text", without learning
(negative-prompt inversion, Miyake et al. 2023, arXiv:2305.16807): with the same text as prompt guidance then changes
nothing, and with another prompt it leads from the one text to the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from editkit.diffusion.samplers import Memory, Normal, Predict, WrappedSampler
from editkit.plugin import (
    CONDITIONS,
    ChainError,
    Conditioning,
    Hooks,
    Level,
    Metavar,
    Move,
    Options,
    Output,
    Plan,
    Plugin,
    ReadsText,
    Run,
    Sampler,
    Section,
    Step,
    capability,
    make_sampler,
)
from editkit_plugins.noise_files import check_free, load_noise, read_learned, save
from editkit_plugins.null_text import Learning, NullText, empty_prompt, guided_by

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import ModelInfo

DEVIATION = 0.5
"""Standard deviation of clean data, for the size of a fixed-point step. Only the speed depends on it."""

ROUNDINGS = 100
"""An iterate whose relative error is below this many machine epsilons has converged; differences below are rounding."""


class ConvergenceCallback(Protocol):
    """Callback after each move up to s; `worse`: an iterate had a larger error than the best one before it."""

    def __call__(self, s: Level, worse: bool) -> None: ...


@dataclass(frozen=True)
class Refined(WrappedSampler):
    """`inner` with refined upward moves: solves for the state at s from which `inner` returns to x_t."""

    iterations: int
    report_convergence: ConvergenceCallback | None = None

    def calls(self, move: Move) -> int:
        back = self.iterations * self.inner.calls(Move(move.s, move.t)) if move.up else 0
        return self.inner.calls(move) + back

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        x_s, kept = self.inner.step(x_t, t, s, predict, normal, memory)
        if s.index < t.index:
            return x_s, kept
        return self._solve(x_s, x_t, lambda x: self.inner.step(x, s, t, predict, normal, None)[0], s, t), None

    def _solve(self, x_s: Tensor, x_t: Tensor, down: Callable[[Tensor], Tensor], s: Level, t: Level) -> Tensor:
        """Iterate from x_s, (batch, channels, ...). Each item returns its last iterate, or its best one if the
        last evaluated iterate was worse.
        """
        import torch

        each = (-1, *(1,) * (x_t.ndim - 1))
        c = x_t.new_full((len(x_t),), math.sqrt(_variance(s) / _variance(t))).reshape(each)
        best, missed, least = x_s, x_t.new_zeros(x_t.shape), x_t.new_full((len(x_t),), math.inf).reshape(each)
        better, worse = least > 0.0, least < 0.0
        rounded = ROUNDINGS * torch.finfo(x_t.dtype).eps * x_t.flatten(1).norm(dim=1).reshape(each)
        for _ in range(self.iterations):
            off = x_t - down(x_s)
            size = off.flatten(1).norm(dim=1).reshape(each)
            better = size < least
            worse = worse | (~better & (least > rounded))
            best, missed, least = x_s.where(better, best), off.where(better, missed), size.where(better, least)
            c = c.where(better, 0.5 * c)
            x_s = best + c * missed
        if self.report_convergence is not None:
            self.report_convergence(s, bool(worse.any()))
        return x_s.where(better, best)


def _variance(level: Level) -> float:
    return DEVIATION**2 * level.alpha**2 + level.sigma**2


def walks_both_ways(info: ModelInfo) -> Options:
    """Choose ddim for models whose default sampler is not reversible."""
    return Options() if make_sampler(info.sampler).reversible else Options(sampler="ddim")


class Invert(Plugin):
    """Map the picture to its noise by the deterministic flow, and back; the PSNR of the round trip is reported.

    `--way up` ends at the noise, and a stage `then invert --way down` continues from there: with another prompt or
    model this is a translation. --save-noise saves the noise to a file, --from-noise starts from such a file.
    """

    name: ClassVar[str] = "invert"
    group: ClassVar[Section] = "advanced"
    acts_after: ClassVar[frozenset[str]] = frozenset({CONDITIONS})
    """Null-text learning must see the conditioning that the other plugins add."""

    usage: ClassVar[tuple[str, ...]] = (
        "invert photo.png --steps 50 --refine 3",
        "invert photo.png --save-noise photo.safetensors",
        "invert photo.png --way up --model DIR then invert --way down --model OTHER",
    )

    way: Literal["both", "up", "down"] = Field("both", description="up: to the noise; down: back to the picture.")
    strength: float = Field(1.0, ge=0.0, le=1.0, description="Highest noise level to reach; 1: pure noise.")
    refine: int = Field(0, ge=0, le=1000, description="Fixed-point iterations in every move up (AIDI, ReNoise).")
    source: str | None = Field(
        None, description="What the picture shows: the prompt on the way up, and the negative prompt on the way down."
    )
    null_text: int = Field(
        0,
        ge=0,
        le=1000,
        description="Null-text inversion: optimisation steps in each move down, so that guidance keeps the picture.",
    )
    save_noise: Annotated[str | None, Metavar("FILE"), Output()] = Field(
        None, description="Save the noise, with the settings that it belongs to (.safetensors)."
    )
    from_noise: Annotated[str, Metavar("FILE")] | None = Field(
        None, description="Start from the noise in this file; the picture gives the size and the reference for PSNR."
    )

    @model_validator(mode="after")
    def _check_one_direction(self) -> Invert:
        if self.from_noise is not None and (self.save_noise is not None or self.way == "up"):
            raise ValueError("--from-noise runs the way down only; leave --save-noise and --way up out")
        if self.null_text and (self.way != "both" or self.from_noise is not None or self.source is not None):
            raise ValueError("--null-text learns on the way back; leave --way, --from-noise and --source out")
        if self.null_text and (self.start, self.stop) != (0.0, 1.0):
            raise ValueError("--null-text learns from every state of the way up; leave --start and --stop out")
        return self

    @property
    def climbs(self) -> bool:
        """Whether the process has a way up."""
        return self.way != "down" and self.from_noise is None

    def hooks(self) -> type[Hooks[Invert]]:
        if self.source is not None:
            return _SavingSourceHooks if self.save_noise is not None else _SourceHooks
        if self.null_text and self.way == "both":
            return _NullTextHooks
        if self.from_noise is not None:
            return _KeptHooks
        return _SavingHooks if self.save_noise is not None else _InvertHooks

    def default_options(self, info: ModelInfo) -> Options:
        return walks_both_ways(info)

    def plan(self, plan: Plan) -> Plan:
        plan = plan.start_at(self.strength)
        if not self.climbs:
            return plan
        return plan.encode() if self.way == "up" else plan.encode() + plan

    def walk(self, sampler: Sampler) -> Sampler:
        sampler = Refined(sampler, self.refine) if self.refine and self.climbs else sampler
        return Learning(sampler, self.null_text) if self.null_text and self.way == "both" else sampler


class _InvertHooks(Hooks[Invert]):
    def __init__(self, plugin: Invert, run: Run) -> None:
        super().__init__(plugin, run)
        self.worse = 0

    def walk(self, sampler: Sampler) -> Sampler:
        walked = super().walk(sampler)
        if isinstance(walked, Learning):
            return replace(walked, inner=self._with_callback(walked.inner))
        return self._with_callback(walked)

    def _with_callback(self, rule: Sampler) -> Sampler:
        return replace(rule, report_convergence=self.report_convergence) if isinstance(rule, Refined) else rule

    def report_convergence(self, s: Level, worse: bool) -> None:
        """Count the moves in which refinement did not contract; report their number at the top."""
        top = self.run.plan.top
        self.worse += worse
        if s.index == top and self.worse:
            self.run.notify(
                f"--refine {self.plugin.refine} does not contract in {self.worse} of {top} moves up; the best iterate "
                "of each is kept"
            )

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """Return the first state: the picture if the way begins at the clean level, else noise.

        The noise comes from a file, or from the stage before (None: the engine passes it on).

        Raises:
            ChainError: there is no noise to start from.
        """
        run = self.run
        if self.plugin.from_noise is not None:
            return load_noise(self.plugin.from_noise, run)
        if run.handed is None and run.plan.start > 0 and not self.plugin.climbs:
            raise ChainError("invert --way down starts from noise, but no stage before ends there (invert --way up)")
        known = run.inputs.known
        if run.handed is not None or known is None:
            return None
        if run.plan.start == 0:  # even if the model's last level is not quite clean
            return known.expand(run.shape)
        return run.levels[run.plan.start].alpha * known + run.levels[run.plan.start].sigma * run.opening.noise

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float | str]:
        """Report the peak signal-to-noise ratio of the result against the picture, in decibels."""
        original = self.run.inputs.original
        assert original is not None
        error = float((image - original).double().square().mean())
        return {"psnr": f"{10.0 * math.log10(4.0 / error):.2f} dB" if error > 0.0 else "the same picture"}


class _SavingHooks(_InvertHooks):
    def __init__(self, plugin: Invert, run: Run) -> None:
        super().__init__(plugin, run)
        assert plugin.save_noise is not None
        check_free(plugin.save_noise)

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        if step.move.up and step.move.s == self.run.plan.top:
            assert self.plugin.save_noise is not None
            save(self.plugin.save_noise, x_s, self.run)
        return x_s


class _SourceHooks(_InvertHooks):
    """Guidance with the picture's description in place of "no text"."""

    def __init__(self, plugin: Invert, run: Run) -> None:
        super().__init__(plugin, run)
        reads = capability(run.model, ReadsText) if "prompt" in run.model.info.takes else None
        if reads is None:
            raise ChainError(
                f"invert --source is a text, but {run.model.info.name} ({run.model.info.family}) takes no text; leave "
                "it out, or choose another --model"
            )
        self.source, dropped = reads.encode_text(plugin.source or "")
        if dropped:
            run.notify(f"--source is longer than the model can read; left out: {dropped}")

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        prompt = self.source if step.move.up else cond.prompt
        return replace(cond, prompt=prompt, negative=self.source)


class _SavingSourceHooks(_SourceHooks, _SavingHooks):
    pass


class _NullTextHooks(_InvertHooks):
    """Up without guidance, down with a learnt embedding in place of "no text"."""

    def __init__(self, plugin: Invert, run: Run) -> None:
        super().__init__(plugin, run)
        guided_by(run)
        if plugin.save_noise is not None:
            check_free(plugin.save_noise)
        self.learner: NullText | None = None

    def walk(self, sampler: Sampler) -> Sampler:
        self.learner = NullText(self.run, self.plugin.null_text, sampler)
        return super().walk(sampler)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if step.move.up:
            return replace(cond, guidance=1.0)
        assert self.learner is not None
        return replace(cond, negative=self.learner.negative(step, cond))

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        assert self.learner is not None
        if step.move.up:
            if not self.learner.states:
                self.learner.passed(step.move.t, self._initial_state())
            self.learner.passed(step.move.s, x_s)
        elif step.move.s == 0 and self.plugin.save_noise is not None:
            save(self.plugin.save_noise, self.learner.states[self.run.plan.top], self.run, self.learner)
        return x_s

    def _initial_state(self) -> Tensor:
        """Return the state in which the way up began: the picture."""
        begun = self.begin()
        assert begun is not None
        return begun


class _KeptHooks(_InvertHooks):
    """The way down from a file, with the learnt null-text embeddings if the file has them."""

    def __init__(self, plugin: Invert, run: Run) -> None:
        super().__init__(plugin, run)
        assert plugin.from_noise is not None
        self.learnt = read_learned(plugin.from_noise, run)
        self.empty = empty_prompt(run) if self.learnt else None

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        kept = self.learnt.get(step.move.t)
        if kept is None or self.empty is None:
            return cond
        return replace(cond, negative=replace(self.empty, embeds=kept))
