"""Translation: change a picture that one text describes into one that another text describes, and keep the rest.

`ddib` runs the source's flow up and the target's flow down (Su et al. 2022, arXiv:2203.08382); between two Gaussians
this is the optimal transport map. `cycle` (DPM-Encoder, Wu & De la Torre 2022, arXiv:2210.05559) records the noise of
each stochastic step with which the source's process reaches the picture, and replays it in the target's process.
`edit-friendly` (Huberman-Spiegelglas et al. 2023, arXiv:2304.06140) does the same with independently noised states.
With mu the mean of a ddpm step, x_t the source's state and y_t the target's,

    y_s = mu(y_t; target) + (x_s - mu(x_t; source)),   x_s ~ q(x_s | x_t, x0)   or   x_s = alpha_s x0 + sigma_s e_s.

`flowedit` (Kulikov et al. 2024, arXiv:2412.08629), for flow-matching models, moves the picture itself by the difference
of the two velocities at states with the same noise: z += (s - t) (v(z + x_t - x0; target) - v(x_t; source)). `rf`
(RF-inversion, Rout et al. 2024, arXiv:2410.10792), for the same models, goes up and down as `ddib` does, but is pulled
towards one noise z on the way up and towards the picture y on the first part of the way down:

    dx/dt = (1 - gamma) v(x; source) + gamma (z - x) / (1 - t),   dx/dt = (1 - hold) v(x; target) + hold (x - y) / t.

`rf-solver` (Wang et al. 2024, arXiv:2411.04746) is `ddib` with a second-order solver for these models: the expansion of
the velocity, with its derivative taken over half a move, x_s = x_t + h v + h^2/2 (v(x_t + h/2 v, t + h/2) - v) / (h/2).
This is the midpoint rule.

`dds` (Hertz et al. 2023, arXiv:2304.07090) moves a picture against w (eps_hat(x_t; target) - eps_hat(x_t; source)) with
the same noise in both: score distillation without the bias that it has on every picture. `pds` (Koo et al. 2024,
arXiv:2311.13831) moves it against the difference of the two noise maps z = (x_s - mu(x_t)) / sqrt(var). Both have the
same direction, D = (x0_hat - x) of the target minus that of the source, but different weights (tests/test_distill.py).

With equal texts `cycle`, `edit-friendly`, `flowedit`, `dds` and `pds` return the picture exactly, whatever the
guidance; `ddib` returns it up to the order of its sampler, and `rf` if it is held to the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from editkit.diffusion.distilling import PictureState, gradient_weight
from editkit.diffusion.samplers import Memory, Normal, Predict, posterior_variance
from editkit.diffusion.schedule import Flow
from editkit.plugin import (
    ChainError,
    Conditioning,
    Grid,
    Hooks,
    Level,
    MaskSource,
    ModelError,
    Move,
    Notify,
    Options,
    Picture,
    Plan,
    Plugin,
    ReadsText,
    Run,
    Sampler,
    Section,
    Slot,
    Step,
    capability,
    read_mask,
)
from editkit_plugins.invert import walks_both_ways

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.plugin import ModelInfo, Prediction

Method = Literal["ddib", "cycle", "edit-friendly", "flowedit", "rf", "rf-solver", "dds", "pds"]

BOTH_WAYS: tuple[Method, ...] = ("ddib", "rf", "rf-solver")
"""Methods that first map the picture to noise."""


OF_METHOD: Mapping[str, tuple[str, ...]] = {
    "rate": ("dds", "pds"), "gamma": ("rf",), "hold": ("rf",), "hold_until": ("rf",),
}  # fmt: skip
"""Parameter -> the methods that read it."""


class Translate(Plugin):
    """Change what --source describes (the picture as it is) into what --prompt describes.

    With a mask only its inside is translated. To translate between two models: `invert --way up --model A then invert
    --way down --model B`.
    """

    name: ClassVar[str] = "translate"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        'translate cat.png --model DIR --source "a cat" --prompt "a dog"',
        'translate cat.png --model DIR --source "a cat" --prompt "a dog" --method edit-friendly --skip 18 --steps 50',
        'translate cat.png --model DIR --source "a cat" --prompt "a dog" --mask box:20%,20%,80%,80%',
    )
    holds: ClassVar[frozenset[Slot]] = frozenset({"mask"})
    needs: ClassVar[frozenset[str]] = frozenset({"prompt"})
    order: ClassVar[int] = -20
    example: ClassVar[Mapping[str, Any]] = {"source": "a cat"}

    method: Method = Field("cycle", description="Method; flowedit, rf and rf-solver are for flow-matching models.")
    source: str = Field("", description="What the picture shows.")
    source_guidance: float | None = Field(
        None, ge=0.0, description="Guidance scale for --source; default: the same as for --prompt."
    )
    strength: float = Field(1.0, ge=0.0, le=1.0, description="Fraction of the process to run: 0 none, 1 all.")
    skip: int = Field(0, ge=0, description="Steps skipped at the noisy end; more stays closer to the picture.")
    rate: float = Field(0.5, gt=0.0, le=2.0, description="dds, pds: step size.")
    gamma: float = Field(
        0.5, ge=0.0, le=1.0, description="rf: pull towards one fixed noise on the way up; 0: the flow alone."
    )
    hold: float = Field(0.9, ge=0.0, le=1.0, description="rf: pull towards the picture on the way down; 1: fully.")
    hold_until: float = Field(0.3, ge=0.0, le=1.0, description="rf: fraction of the way down during which --hold acts.")
    mask: MaskSource | None = Field(None, description="White = translate; a picture, or words as box:10,10,80,60.")

    def hooks(self) -> type[Hooks[Translate]]:
        own: dict[str, type[Hooks[Translate]]] = {
            "ddib": _Hooks, "flowedit": _FlowEdit, "rf": _Drawn, "rf-solver": _Solved,
            "dds": _Distilled, "pds": _Distilled,
        }  # fmt: skip
        return own.get(self.method, _Replaying)

    def default_options(self, info: ModelInfo) -> Options:
        return walks_both_ways(info) if self.method == "ddib" else Options()

    def open(self, picture: Picture, notify: Notify) -> Picture:
        return picture if self.mask is None else picture.with_mask(read_mask(self.mask, picture, notify=notify))

    def plan(self, plan: Plan) -> Plan:
        plan = plan.start_at(self.strength)
        plan = replace(plan, moves=plan.moves[self.skip :])
        return plan.encode() + plan if self.method in BOTH_WAYS else plan

    def idle(self, info: ModelInfo) -> dict[str, str]:
        ways = {name: of for name, of in OF_METHOD.items() if self.method not in of}
        return {name: f"it is for --method {' and '.join(of)}, not for {self.method}" for name, of in ways.items()}

    def calls(self, move: Move) -> int:
        return 1 if self.method == "rf" else 2


class _Hooks(Hooks[Translate]):
    """Hooks of `ddib`: the source's text on the way up, the target's on the way down."""

    def __init__(self, plugin: Translate, run: Run) -> None:
        super().__init__(plugin, run)
        reads = capability(run.model, ReadsText)
        if reads is None:
            raise ModelError(f"model {run.model.info.name} declares that it takes text, but has no encode_text")
        self.source, dropped = reads.encode_text(plugin.source)
        if dropped:
            run.notify(f"--source is longer than the model can read; left out: {dropped}")
        if run.inputs.known is None:
            raise ChainError("translate needs a picture; with sample(), give known=")
        self.picture = run.inputs.known.expand(run.shape).float()

    def predicts_source(self, step: Step) -> bool:
        """Whether the current prediction is for the source's text."""
        return step.move.up

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if not self.predicts_source(step):
            return cond
        scale = self.plugin.source_guidance
        return replace(cond, prompt=self.source, guidance=cond.guidance if scale is None else scale)

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        level = self.run.levels[self.run.plan.start]
        if self.run.plan.start == 0:
            return self.picture
        return level.alpha * self.picture + level.sigma * self.run.opening.noise

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        original, mask = self.run.inputs.original, self.run.inputs.original_mask
        if original is None or mask is None:
            return image
        return original.where(mask == 0, original + mask * (image.clamp(-1, 1) - original))


class _Both(_Hooks):
    """Hooks of methods with both predictions in every move; the sampler says which one it asks for."""

    def __init__(self, plugin: Translate, run: Run) -> None:
        super().__init__(plugin, run)
        self.asking = False

    def predicts_source(self, step: Step) -> bool:
        return self.asking

    def of(self, predict: Predict, x: Tensor, level: Level, source: bool) -> Prediction:
        """Predict at state x, (batch, channels, ...), with the source's or the target's text."""
        self.asking = source
        try:
            return predict(x, level)
        finally:
            self.asking = False

    def inside_mask(self, difference: Tensor) -> Tensor:
        """Set `difference` to 0 outside the mask, where the result must not differ from the picture."""
        region = self.run.inputs.region
        return difference if region is None else difference * (region > 0)


class Walk:
    """Base class of these methods' samplers: bound to their hooks, with both predictions in a move."""

    name: ClassVar[str]
    grid: ClassVar[Grid] = Grid()

    def __init__(self, hooks: _Both) -> None:
        self.hooks = hooks

    @property
    def reversible(self) -> bool:
        return False

    def calls(self, move: Move) -> int:
        return 2


class _Replaying(_Both):
    def sampler(self) -> Sampler:
        return Replayed(self)


class Replayed(Walk):
    """Sampler of `cycle` and `edit-friendly`; its memory is the source's state."""

    name = "replayed"

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Return (y_s, x_s) from y_t and, in memory, x_t; both processes start from the same state."""
        hooks, ours = self.hooks, x_t if memory is None else memory
        if s.index == 0:  # the picture itself, even if the model's last level is not quite clean
            theirs = hooks.picture
        elif hooks.plugin.method == "cycle":
            theirs = mean(ours, hooks.picture, t, s) + posterior_variance(t, s)[0] ** 0.5 * normal(t, s)
        else:
            theirs = s.alpha * hooks.picture + s.sigma * normal(t, s)
        wanted = mean(x_t, hooks.of(predict, x_t, t, source=False).x0, t, s)
        came = mean(ours, hooks.of(predict, ours, t, source=True).x0, t, s)
        return theirs + hooks.inside_mask(wanted - came), theirs


def mean(x_t: Tensor, x0: Tensor, t: Level, s: Level) -> Tensor:
    """Return E[x_s | x_t, x0] = (alpha_t sigma_s^2 / (alpha_s sigma_t^2)) x_t + (alpha_s beta / sigma_t^2) x0."""
    beta = posterior_variance(t, s)[1]
    return (t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)) * x_t + (s.alpha * beta / t.sigma**2) * x0


class _Flowing(_Both):
    """Hooks of methods for flow-matching models."""

    def __init__(self, plugin: Translate, run: Run) -> None:
        super().__init__(plugin, run)
        if not isinstance(run.model.schedule, Flow):
            raise ChainError(
                f"translate --method {plugin.method} is for flow-matching models (SD 3, FLUX), and "
                f"{run.model.info.name} is none; use --method cycle"
            )

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        return self.picture


class _FlowEdit(_Flowing):
    def sampler(self) -> Sampler:
        return Velocities(self)


class Velocities(Walk, PictureState):
    """Sampler of `flowedit`: the state is a clean picture at every level."""

    name = "velocities"

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        hooks = self.hooks
        came = t.alpha * hooks.picture + t.sigma * normal(t, s)
        wanted = came + (x_t - hooks.picture)
        to, of = hooks.of(predict, wanted, t, source=False), hooks.of(predict, came, t, source=True)
        difference = (to.eps - of.eps) - (to.x0 - of.x0)
        return x_t + hooks.inside_mask((s.sigma - t.sigma) * difference), None


class _Drawn(_Flowing):
    def __init__(self, plugin: Translate, run: Run) -> None:
        super().__init__(plugin, run)
        self.noise = run.opening.noise

    def sampler(self) -> Sampler:
        return Controlled(self)

    def pull_strength(self, t: Level) -> Tensor | float:
        """Return the pull towards the picture on the way down from t; outside the mask it is 1."""
        plugin, plan, region = self.plugin, self.run.plan, self.run.inputs.region
        early = plan.top - t.index < plugin.hold_until * plan.top
        hold = plugin.hold if early else 0.0
        return hold if region is None else (region > 0) * (hold - 1.0) + 1.0


class Controlled(Walk):
    """Sampler of `rf`: Euler steps of a flow that is pulled towards one noise, and back to the picture."""

    name = "controlled"

    def __init__(self, hooks: _Drawn) -> None:
        super().__init__(hooks)
        self.drawn = hooks

    @property
    def reversible(self) -> bool:
        return True

    def calls(self, move: Move) -> int:
        return 1

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        up = s.index > t.index
        pred = self.drawn.of(predict, x_t, t, source=up)
        v = pred.eps - pred.x0
        if up:
            share: Tensor | float = self.drawn.plugin.gamma
            drawn = (self.drawn.noise - x_t) / t.alpha
        else:
            share, drawn = self.drawn.pull_strength(t), (x_t - self.drawn.picture) / t.sigma
        return x_t + (s.sigma - t.sigma) * (v + share * (drawn - v)), None


class _Solved(_Flowing):
    def sampler(self) -> Sampler:
        return Midpoint(self)


class Midpoint(Walk):
    """Sampler of `rf-solver`: the velocity and its derivative, by two calls a move."""

    name = "rf-solver"

    @property
    def reversible(self) -> bool:
        return True

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        up, h = s.index > t.index, s.sigma - t.sigma

        def velocity(x: Tensor, level: Level) -> Tensor:
            pred = self.hooks.of(predict, x, level, source=up)
            return pred.eps - pred.x0

        v = velocity(x_t, t)
        half = Level(0.5 * (t.t + s.t), 0.5 * (t.alpha + s.alpha), 0.5 * (t.sigma + s.sigma), max(t.index, s.index))
        slope = (velocity(x_t + 0.5 * h * v, half) - v) / (0.5 * h)
        return x_t + h * v + 0.5 * h**2 * slope, None


class _Distilled(_Both):
    def sampler(self) -> Sampler:
        return Deltas(self)


class Deltas(Walk, PictureState):
    """Sampler of `dds` and `pds`: the state is the picture; levels decrease (the papers draw them at random)."""

    name = "deltas"

    def step(
        self, x_t: Tensor, t: Level, s: Level, predict: Predict, normal: Normal, memory: Memory
    ) -> tuple[Tensor, Memory]:
        """Return x + rate w D for the picture x; D is the difference of both directions at the same noise."""
        hooks, x, picture = self.hooks, x_t, self.hooks.picture
        noise = t.sigma * normal(t, s)
        to = hooks.of(predict, t.alpha * x + noise, t, source=False).x0
        of = hooks.of(predict, t.alpha * picture + noise, t, source=True).x0
        return x + hooks.inside_mask((hooks.plugin.rate * self.pull(t, s)) * ((to - x) - (of - picture))), None

    def pull(self, t: Level, s: Level) -> float:
        """Return the weight w of D.

        dds: as in sds. pds: alpha_s beta / (sigma_t^2 sqrt(var)), the factor of D in (x_s - mu) / sqrt(var); at most 1,
        since var decreases to 0 in the last move.
        """
        if self.hooks.plugin.method == "dds":
            return gradient_weight(t, "paper")
        small, beta = posterior_variance(t, s)
        return 1.0 if small == 0.0 else min(1.0, s.alpha * beta / (t.sigma**2 * small**0.5))
