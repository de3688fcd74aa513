"""SDEdit: start the reverse process from the noised picture instead of from noise.

Meng et al. 2021, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", arXiv:2108.01073.
A strength s begins at level floor(s * steps) with x_t = alpha_t * y + sigma_t * eps: the less noise, the nearer to the
picture y. `img2img` elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from editkit.plugin import Hooks, Plan, Plugin, Section

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


TOUCH = 0.35
"""Up to this strength a picture is only touched up, and nobody expects another one."""

EMBEDDED = {
    "patches": "draws again from the picture's own patches: texture comes from elsewhere in it",
    "pocket": "invents no variation: it smooths, and smears the more the stronger",
}
"""The models that come with editkit, and what they do."""


class SDEdit(Plugin):
    """Redraw the picture from a noisy version of itself.

    Strength 0 returns the picture; strength 1 walks every level, from the picture buried in noise - and from pure
    noise where a mask says what to regenerate, so that nothing of the old content remains.
    """

    name: ClassVar[str] = "sdedit"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "sdedit photo.png --strength 0.4",
        'sdedit photo.png --strength 0.6 --model DIR --prompt "a watercolour"',
        "inpaint photo.png --mask mask.png then sdedit --strength 0.2",
    )
    order: ClassVar[int] = -10

    strength: float = Field(0.6, ge=0.0, le=1.0, description="How much of the process to run: 0 none, 1 all of it.")

    def hooks(self) -> type[Hooks[SDEdit]]:
        return _SDEditHooks

    def plan(self, plan: Plan) -> Plan:
        return plan.start_at(self.strength)


class _SDEditHooks(Hooks[SDEdit]):
    def begin(self) -> Float[Tensor, "b c *size"] | None:
        self._say_what_it_cannot()
        run = self.run
        start = run.inputs.start
        if start is None or (self.plugin.strength == 1.0 and run.inputs.mask is not None):
            return None
        level = run.levels[run.plan.start]
        return level.alpha * start + level.sigma * run.opening.noise

    def _say_what_it_cannot(self) -> None:
        name = self.run.model.info.name
        if name in EMBEDDED and self.run.inputs.mask is None and self.plugin.strength > TOUCH:
            self.run.notify(
                f"sdedit: {name}, which comes with editkit, knows no things and {EMBEDDED[name]}; a Stable Diffusion "
                "varies what is shown (editkit models suggest)"
            )
