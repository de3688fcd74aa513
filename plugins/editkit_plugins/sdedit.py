"""SDEdit: start the reverse process from the noised picture instead of pure noise.

Meng et al. 2021, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", arXiv:2108.01073.
A strength s starts at level floor(s * steps) with x_t = alpha_t * y + sigma_t * eps: less noise stays closer to the
picture y. Other programs call this `img2img`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from editkit.plugin import Hooks, Plan, Plugin, Section

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


TOUCH = 0.35
"""Up to this strength users expect a touch-up, not a different picture."""

EMBEDDED = {
    "patches": "draws the picture again from its own patches: texture comes from elsewhere in it",
    "pocket": "smooths and smears, the more with higher strength",
}
"""Models that come with editkit -> what they do instead of varying objects."""


class SDEdit(Plugin):
    """Redraw the picture from a noisy version of itself.

    Strength 0 returns the picture. Strength 1 runs every level, starting from the picture at the highest noise level;
    with a mask it starts from pure noise, so that nothing of the old content remains inside.
    """

    name: ClassVar[str] = "sdedit"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "sdedit photo.png --strength 0.4",
        'sdedit photo.png --strength 0.6 --model DIR --prompt "a watercolour"',
        "inpaint photo.png --mask mask.png then sdedit --strength 0.2",
    )
    order: ClassVar[int] = -10

    strength: float = Field(0.6, ge=0.0, le=1.0, description="Fraction of the process to run: 0 none, 1 all.")

    def hooks(self) -> type[Hooks[SDEdit]]:
        return _SDEditHooks

    def plan(self, plan: Plan) -> Plan:
        return plan.start_at(self.strength)


class _SDEditHooks(Hooks[SDEdit]):
    def begin(self) -> Float[Tensor, "b c *size"] | None:
        self._report_limits()
        run = self.run
        start = run.inputs.start
        if start is None or (self.plugin.strength == 1.0 and run.inputs.mask is not None):
            return None
        level = run.levels[run.plan.start]
        return level.alpha * start + level.sigma * run.opening.noise

    def _report_limits(self) -> None:
        name = self.run.model.info.name
        if name in EMBEDDED and self.run.inputs.mask is None and self.plugin.strength > TOUCH:
            self.run.notify(
                f"sdedit: {name}, which comes with editkit, knows no objects and {EMBEDDED[name]}; Stable Diffusion "
                "makes real variations (editkit models suggest)"
            )
