"""editkit: edit pictures with diffusion models.

One engine runs the reverse diffusion process; everything else is a plugin that acts through hooks at each step. Methods
combine: `&` joins plugins in one process, `|` starts another process on its result::

    from editkit import edit
    from editkit.plugins import Inpaint, SDEdit

    edit("photo.png", Inpaint(mask="mask.png") | SDEdit(strength=0.3), seed=7).write("out.png")

Importing this module is cheap: torch is imported by the first edit.
"""

from __future__ import annotations

from importlib import import_module

from editkit.common import moved
from editkit.errors import EditkitError

TYPE_CHECKING = False  # importing `typing` takes longer than everything here
if TYPE_CHECKING:
    from typing import Any

    from editkit.diffusion.plan import Plan as Plan
    from editkit.editing.api import edit as edit
    from editkit.editing.api import plan as plan
    from editkit.editing.api import sample as sample
    from editkit.editing.api import stream as stream
    from editkit.editing.between import interpolate as interpolate
    from editkit.editing.density import log_likelihood as log_likelihood
    from editkit.editing.density import variational_bound as variational_bound
    from editkit.editing.distilling import distill as distill
    from editkit.editing.picture_density import density as density
    from editkit.editing.video import edit_video as edit_video
    from editkit.pictures.picture import Picture as Picture
    from editkit.plugin import Hooks as Hooks
    from editkit.plugin import Plugin as Plugin
    from editkit.plugin import Run as Run
    from editkit.plugin import Step as Step
    from editkit.plugin.chain import Chain as Chain

_HOMES = {
    "Chain": "plugin.chain", "Hooks": "plugin.protocol", "Picture": "pictures.picture", "Plan": "diffusion.plan",
    "Plugin": "plugin.protocol", "Run": "plugin.step", "Step": "plugin.step", "density": "editing.picture_density",
    "distill": "editing.distilling", "edit": "editing.api", "edit_video": "editing.video",
    "interpolate": "editing.between", "log_likelihood": "editing.density", "plan": "editing.api",
    "sample": "editing.api", "stream": "editing.api", "variational_bound": "editing.density",
}  # fmt: skip

__all__ = ["EditkitError", *_HOMES]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name in _HOMES:
        return getattr(import_module(f"editkit.{_HOMES[name]}"), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("editkit")
    raise AttributeError(f"module 'editkit' has no attribute {name!r}")


moved.install()
