"""Base class of edits that solve an inverse problem: the options of the solvers, and the choice of one.

Imports no torch: declarations serve `plan` and `--help`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from editkit.plugin import Options, Plan, Plugin, Run
from editkit_plugins.restoring.memory import BY_METHOD, afford

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo
    from editkit_plugins.restoring.problem import Problem

LITTLE = 2.0
"""Noise below this is weak, in levels of 255."""

MUCH = 15.0
"""Noise above this is strong, in levels of 255 of the result."""


OF_METHOD: Mapping[str, tuple[str, ...]] = {
    "project": ("conditioned",), "zeta": ("dps",), "eta": ("ddrm",), "eta_b": ("ddrm",),
    "lam": ("diffpir", "wiener", "graikos", "point", "hqs"), "rate": ("point", "graikos"), "renew": ("diffpir",),
}  # fmt: skip
"""Parameter -> the methods that read it."""


class Solving(Plugin):
    """An edit whose input is an observation y = A(x) + noise of the wanted picture x.

    `auto` conditions the model on y if the model takes what the edit offers. For other models it chooses ddnm if y has
    no noise, since ddnm is consistent and needs no gradient; wiener, its version for noisy observations, if the noise
    level is known; ddrm if the noise exceeds `MUCH` (measured with `pocket`, docs/restoration.md); and dps on latent
    models, where A acts after the decoder.
    """

    order: ClassVar[int] = 100

    method: str
    project: bool = Field(True, description="conditioned: also project the result onto the observation, as ddnm does.")
    strength: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Fraction of the process; below 1 from A^+ y; default 1 (JPEG: 0.15).",
    )
    zeta: float = Field(
        0.7, gt=0.0, description="dps: how far all steps together may move a value (black -1, white 1)."
    )
    eta: float | None = Field(
        None, ge=0.0, le=1.0, description="ddrm: how much noise a step renews; default 0.85, less with many steps."
    )
    eta_b: float = Field(1.0, ge=0.0, le=1.0, description="ddrm: weight of the observation.")
    lam: float | None = Field(
        None, gt=0.0, description="diffpir, wiener, graikos: weight of the prior; default 7, 2 (for photographs) and 1."
    )
    rate: float = Field(0.3, gt=0.0, le=1.0, description="point, graikos: step size.")
    renew: float = Field(
        0.3, ge=0.0, le=1.0, description="diffpir: fraction of the noise renewed in a step (its zeta)."
    )

    def problem(self, run: Run) -> Problem:
        """Return the degradation for this run's size, and the observation."""
        raise NotImplementedError(f"{type(self).__name__} must define problem()")

    def condition_on(self, run: Run, y: Tensor) -> Callable[[Conditioning], Conditioning]:
        """Return a function that adds the observation to the conditioning of a model that takes `offers`."""
        raise NotImplementedError(f"{type(self).__name__} must define condition_on()")

    def hooks(self) -> type[Any]:
        """Return the solver's class."""
        raise NotImplementedError(f"{type(self).__name__} must define hooks()")

    def chosen(self) -> str:
        """Return the method, as far as it does not depend on the model: `auto` prefers conditioning if possible."""
        if self.method != "auto":
            return self.method
        return "conditioned" if self.tells() else self.solved()

    def solved(self) -> str:
        """Return what `auto` means for a model that is not conditioned on the observation."""
        if not self.noisy():
            return "ddnm"
        return "wiener" if self.noise() * self.amplifies() < MUCH else "ddrm"

    def idle(self, info: ModelInfo) -> dict[str, str]:
        """Return parameters of other methods; nothing if `auto` depends on more than is known of the model."""
        method = self.chosen()
        if method == "conditioned" and not self.tells() <= info.takes:
            method = self.solved()
        if self.method == "auto" and "prompt" in info.takes and method != "conditioned":
            return {}  # on latents it is dps
        chosen = f"{method}, which --method auto chose" if self.method == "auto" else f"--method {method}"
        if self.method == "auto" and info.loudest is not None:
            method, chosen = "hqs", f"the steps that {info.name} takes"
        ways = {name: of for name, of in OF_METHOD.items() if method not in of}
        return {name: f"it is for --method {_any_of(of)}, not for {chosen}" for name, of in ways.items()}

    def mend(self, info: ModelInfo) -> str:
        """Return what to try if a result of this model does not explain the observation, as the end of a message."""
        return "try another --method or a larger --sigma"

    def amplifies(self) -> float:
        """Return the factor by which the observation's noise is amplified in the result."""
        return 1.0

    def tells(self) -> frozenset[str]:
        """Return the conditions that this declaration passes to a model: all that it `offers`, or fewer."""
        return self.offers

    def default_options(self, info: ModelInfo) -> Options:
        """Choose ddpm on models whose sampler is ddim: the solvers were derived for the ancestral process.

        Without its noise, errors in the null space of A are never corrected (docs/restoration.md).
        """
        conditioned = self.chosen() == "conditioned" and self.tells() <= info.takes
        return Options(sampler="ddpm") if info.sampler == "ddim" and not conditioned else Options()

    def nearest(self, info: ModelInfo) -> bool:
        """Whether one step comes closest to the truth: on task models and on patches, conditioned on y.

        Further steps change little (benchmarks/defaults.py).
        """
        is_conditioned = self.chosen() == "conditioned" and self.tells() <= info.takes
        return is_conditioned and ("task" in info.takes or info.own_picture) and self.share() == 1.0

    def share(self) -> float:
        """Return the fraction of the process to run, 0 to 1."""
        return 1.0 if self.strength is None else self.strength

    def noise(self) -> float:
        """Return the standard deviation of the observation's noise, in levels of 255."""
        return 0.0

    def noisy(self) -> bool:
        """Whether the degradation is linear and the observation has noise of a known level."""
        return False

    def afford(self, width: int, height: int) -> None:
        """Raise PictureError if a result of this size, in pixels, needs more memory than is free."""
        methods = {self.chosen(), self.solved() if self.method == "auto" else self.method}
        afford(f"{self.name} to {width}x{height}", width, height, max(BY_METHOD[method] for method in methods))

    def plan(self, plan: Plan) -> Plan:
        return plan.start_at(self.share())


def _any_of(names: tuple[str, ...]) -> str:
    """Return alternatives in words: `a`, `a or b`, `a, b or c`."""
    return " or ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])
