"""What transformers trained by flow matching share, whatever their VAE: noise levels, branches of guidance batched into
few calls, and ControlNets, whose residuals are added after the transformer's blocks.

A family defines the call of its network (`velocities`), which branches fit into one call (`fits`), and, if it has
ControlNets, their inputs (`given`) and text (`control_words`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from editkit.diffusion.conditioning import Conditioning, Prompt, residuals, with_wanted_words
from editkit.diffusion.control import Given, Residuals, stack_residuals
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.prediction import Prediction, convert
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError
from editkit.models.latent.space import LatentSpace
from editkit.models.latent.tokens import call_grouped, reference_sizes

if TYPE_CHECKING:
    from torch import Tensor


class Branch(NamedTuple):
    """One branch of guidance: the conditions, and the residuals added after the blocks (None: nothing)."""

    cond: Conditioning
    added: Residuals | None


class FlowTransformer(LatentSpace, ABC):
    """A transformer in the space of a VAE as a `Model`; must precede that space among a family's bases.

    Args:
        info: from `describe`.
        transformer, vae: on their device, in their dtype.
        schedule: its noise levels.
    """

    clip: float | None = None

    def __init__(self, info: ModelInfo, transformer: Any, vae: Any, schedule: Schedule) -> None:
        super().__init__(vae)
        self.info, self.transformer, self.schedule = info, transformer, schedule

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        def ask(branches: Sequence[Branch]) -> Sequence[Tensor]:
            added = [branch.added for branch in branches if branch.added is not None]
            whole = stack_residuals(added, len(x_t)) if added else None
            return self.velocities(x_t, level, [branch.cond for branch in branches], whole)

        def key(branch: Branch) -> Hashable:
            return self.fits(branch.cond, branch.added is not None), branch.added is not None

        branches = [Branch(*pair) for pair in zip(conds, self._added(x_t, level, conds), strict=True)]
        return tuple(convert(out, x_t, level, "flow_prediction") for out in call_grouped(branches, key, ask))

    @abstractmethod
    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        """Call the network once for all `conds`: eps - x0 for each, of the shape of x_t."""

    def fits(self, cond: Conditioning, steered: bool) -> Hashable:
        """Return a key; branches with equal keys fit into one call."""
        return reference_sizes(cond)

    def given(self, x_t: Tensor, level: Level, cond: Conditioning) -> Given:
        """Return the inputs of a ControlNet other than its hint."""
        raise ModelError(f"model {self.info.name} ({self.info.family}) takes no ControlNet")

    def control_words(self, conds: Sequence[Conditioning]) -> Sequence[Conditioning]:
        """Return the conditions of each branch's ControlNets."""
        return with_wanted_words(conds)

    def _added(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> list[Residuals | None]:
        """Return the residuals of each branch's ControlNets; equal calls are made only once."""
        made: dict[Hashable, Residuals | None] = {}
        keys = []
        for cond in self.control_words(conds):
            key = tuple(id(part) for part in (cond.prompt, *cond.references, *cond.control))
            if key not in made:
                given = self.given(x_t, level, cond) if cond.control else None
                made[key] = None if given is None else residuals([cond], given)
            keys.append(key)
        return [made[key] for key in keys]

    def words(self, cond: Conditioning) -> Prompt:
        """Return the encoded text of a conditioning; without one, the model's own "no text"."""
        return self._no_words if cond.prompt is None else cond.prompt

    @cached_property
    def _no_words(self) -> Prompt:
        return self.encode_text("")[0]

    @abstractmethod
    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return (`text` for `Conditioning.prompt`, batch 1; the part that did not fit)."""

    @property
    def denoiser(self) -> Any:
        return self.transformer

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Self:
        return self
