"""What a user is told while a stage is settled: what was chosen for them, and which of their options change nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from editkit.common.notify import Notify
from editkit.diffusion.model import ModelInfo
from editkit.plugin.options import Options
from editkit.plugin.protocol import Plugin

if TYPE_CHECKING:
    from editkit.diffusion.model import Pass
    from editkit.diffusion.plan import Plan
    from editkit.pictures.picture import Picture


def who_serves(name: str, usual: ModelInfo, notify: Notify) -> None:
    """Say that a plugin takes another model than the usual one."""
    notify(f"by {name}, which serves this better than {usual.name}; --model takes another")


def nothing_to_learn_from(info: ModelInfo, notify: Notify) -> None:
    """Say who fills a picture of which nothing is kept, where the model learns from the picture."""
    notify(f"nothing is left that {info.name} could learn from; pocket, a small network, fills the picture")


def what_is_scattered(picture: Picture, info: ModelInfo, examples: bool, notify: Notify) -> None:
    """Say that the known pixels lie too far apart to be learned from, where nothing else is learned from."""
    if info.own_picture and not examples and _scattered(picture):
        notify("no square of pixels is known that could be learned from: holes are filled smoothly from around them")


def who_walks(plugins: Sequence[Plugin], options: Options, notify: Notify) -> None:
    """Say what a sampler that was asked for still does where a plugin brings steps of its own (ddrm, diffpir)."""
    own = next((p.name for p in plugins if "sampler" in p.claims()), None)
    if own is not None and options.sampler is not None:
        notify(f"{own} walks by steps of its own; --sampler {options.sampler} lays the noise levels only")


def what_fill_is_for(picture: Picture, info: ModelInfo, notify: Notify) -> None:
    """Say that --fill changes nothing for a model that starts from noise."""
    if picture.fill is not None and not info.own_picture:
        notify(
            f"--fill {picture.fill} changes nothing: {info.name} starts the hole from noise; `with sdedit --strength "
            f"0.8` starts from the fill"
        )


class Planned(Protocol):
    """A pass: its trajectory, and whether it is another attempt at the one before."""

    @property
    def at(self) -> Pass: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def attempt(self) -> int: ...


def what_is_idle(plugins: Sequence[Plugin], passes: Sequence[Planned], options: Options, notify: Notify) -> None:
    """Say whose window (--start, --stop) lies between two steps, and that --tries changes nothing where it does."""
    if options.tries > 1 and not any(part.attempt for part in passes):
        notify(f"--tries {options.tries} has nothing to choose between: nothing is invented beside known pixels")
    flows = [len(part.plan.flow) for part in passes]
    for plugin in plugins:
        whole = plugin.start <= 0.0 and plugin.stop >= 1.0
        if any(flows) and not whole and not any(plugin.acts(k, n) for n in flows for k in range(n)):
            notify(
                f"{plugin.name} does nothing: no step of {max(flows)} has its middle from --start {plugin.start:g} to "
                f"--stop {plugin.stop:g}; widen them, or take more --steps"
            )


def what_is_walked(passes: Sequence[Planned], plugins: Sequence[Plugin], info: ModelInfo, notify: Notify) -> None:
    """Say at which size the model works where it cannot take the picture's, and that a strength leaves few levels, or
    none.
    """
    _how_few(passes, info, notify)
    _padded(passes, info, plugins, notify)
    _not_walked(passes, plugins, info, notify)


def _scattered(picture: Picture) -> bool:
    """Whether pixels are known, and no square that patches could be taken from."""
    from editkit.models.patches.info import PATCH

    if picture.mask is None or bool((picture.mask > 0).all()) or min(picture.size) < PATCH:
        return False
    import cv2

    known = (picture.mask == 0).astype(np.uint8)
    return not bool(cv2.erode(known, np.ones((PATCH, PATCH), np.uint8), borderValue=0).any())


def _how_few(passes: Sequence[Planned], info: ModelInfo, notify: Notify) -> None:
    """Say that a strength leaves a distilled model fewer levels than it was distilled to, and what gives it as many."""
    flows, steps = max(((len(part.plan.flow), part.plan.steps) for part in passes), default=(0, 0))
    if info.distilled and 0 < flows < min(info.steps, steps):
        wanted = math.ceil(info.steps * steps / flows)
        notify(
            f"{flows} of {steps} noise levels are walked, and {info.name} was distilled to {info.steps}: coarse; "
            f"--steps {wanted} walks about as many"
        )


def _padded(passes: Sequence[Planned], info: ModelInfo, plugins: Sequence[Plugin], notify: Notify) -> None:
    """Report that a picture is padded to multiples of the model's token size.

    A plugin that passes the picture to the model reports it itself.
    """
    if info.multiple < 16 or "prompt" not in info.takes or any("references" in plugin.needs for plugin in plugins):
        return
    sizes = [(part.at.width, part.at.height) for part in passes if part.plan.flow]
    uneven = [size for size in sizes if any(side % info.multiple for side in size)]
    if uneven:
        width, height = max(uneven)
        whole = "x".join(str(side + -side % info.multiple) for side in (width, height))
        notify(f"{width}x{height} is padded to {whole}, multiples of {info.multiple}, and cropped back at the end")


def _not_walked(passes: Sequence[Planned], plugins: Sequence[Plugin], info: ModelInfo, notify: Notify) -> None:
    """Say that a strength leaves no noise level, so that the model is not called."""
    if passes and any(p.diffuses for p in plugins) and not any(part.plan.flow for part in passes):
        steps = max(part.plan.steps for part in passes)
        notify(
            f"no noise level of {steps} is left to walk, so {info.name} is not called and the picture stays as it is; "
            "more --strength or more --steps leave some"
        )
