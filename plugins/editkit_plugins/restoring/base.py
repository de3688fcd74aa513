"""What the edits share that solve an inverse problem: the parameters of the methods, and how they are bound.

No torch here: declarations answer `plan` and `--help`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from editkit.plugin import Options, Plan, Plugin, Run
from editkit_plugins.restoring.memory import BY_METHOD, afford

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo
    from editkit_plugins.restoring.problem import Problem

LITTLE = 2.0
"""Noise below this is little, in levels of 255."""

MUCH = 15.0
"""Noise above this is much, in levels of 255 of the picture that is wanted."""


class Solving(Plugin):
    """An edit whose picture is an observation y = A(x) + noise of the one that is wanted.

    `auto` conditions a model that takes what the edit offers. On others it takes ddnm where y has no noise, since it is
    consistent and needs no gradient; wiener, which is ddnm for noisy observations, where y has noise of a known size;
    ddrm where that is more than `MUCH` (measured with `pocket`, docs/restoration.md); and dps on models of latents,
    where A acts behind the decoder.
    """

    order: ClassVar[int] = 100

    method: str
    project: bool = Field(True, description="conditioned: also hold the result to the observation, as ddnm does.")
    strength: float | None = Field(
        None, gt=0.0, le=1.0, description="Share of the process: below 1 it starts from A^+ y; default 1 (JPEG: 0.15)."
    )
    zeta: float = Field(
        0.7, gt=0.0, description="dps: how far all steps together may move a value (black is -1, white 1)."
    )
    eta: float | None = Field(
        None, ge=0.0, le=1.0, description="ddrm: how much noise a step renews; default 0.85, less in many steps."
    )
    eta_b: float = Field(1.0, ge=0.0, le=1.0, description="ddrm: how much of the observation is taken.")
    lam: float | None = Field(
        None, gt=0.0, description="diffpir, wiener, graikos: the prior's weight; default 7, 2 (for photographs) and 1."
    )
    rate: float = Field(0.3, gt=0.0, le=1.0, description="point, graikos: how far a step moves the picture.")
    renew: float = Field(0.3, ge=0.0, le=1.0, description="diffpir: share of the noise that is renewed (its zeta).")

    def problem(self, run: Run) -> Problem:
        """The degradation for this run's size, and what was observed."""
        raise NotImplementedError(f"{type(self).__name__} must define problem()")

    def told(self, run: Run, y: Tensor) -> Callable[[Conditioning], Conditioning]:
        """What a model that takes `offers` is told, added to its conditioning."""
        raise NotImplementedError(f"{type(self).__name__} must define told()")

    def hooks(self) -> type[Any]:
        """The method's class."""
        raise NotImplementedError(f"{type(self).__name__} must define hooks()")

    def chosen(self) -> str:
        """The method, as far as the declaration decides it: `auto` conditions where there is something to offer."""
        if self.method != "auto":
            return self.method
        return "conditioned" if self.tells() else self.solved()

    def solved(self) -> str:
        """What `auto` means on a model that is not told the observation."""
        if not self.noisy():
            return "ddnm"
        return "wiener" if self.noise() * self.amplifies() < MUCH else "ddrm"

    def amplifies(self) -> float:
        """How many times as large the observation's noise is in the picture that is wanted."""
        return 1.0

    def tells(self) -> frozenset[str]:
        """What this declaration tells a model that takes it: what it `offers`, or less."""
        return self.offers

    def default_options(self, info: ModelInfo) -> Options:
        """ddpm, on models that walk by ddim: these methods were derived for the ancestral process. Without its noise,
        what the observation leaves open keeps every error that was made of it (docs/restoration.md)."""
        conditioned = self.chosen() == "conditioned" and self.tells() <= info.takes
        return Options(sampler="ddpm") if info.sampler == "ddim" and not conditioned else Options()

    def nearest(self, info: ModelInfo) -> bool:
        """Whether one step is nearest to the truth, and more change little: on a model of tasks, or of patches, that is
        told y (benchmarks/defaults.py)."""
        told = self.chosen() == "conditioned" and self.tells() <= info.takes
        return told and ("task" in info.takes or info.own_picture) and self.share() == 1.0

    def share(self) -> float:
        """How much of the process is walked, 0 to 1."""
        return 1.0 if self.strength is None else self.strength

    def noise(self) -> float:
        """The observation's noise in levels of 255."""
        return 0.0

    def noisy(self) -> bool:
        """True where the observation has noise of known size, on a linear degradation."""
        return False

    def afford(self, width: int, height: int) -> None:
        """Raises PictureError where the result needs more memory than is free."""
        methods = {self.chosen(), self.solved() if self.method == "auto" else self.method}
        afford(f"{self.name} to {width}x{height}", width, height, max(BY_METHOD[method] for method in methods))

    def plan(self, plan: Plan) -> Plan:
        return plan.start_at(self.share())
