"""Notices during the planning of a stage: what was chosen for the user, and which options have no effect."""

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


def report_chosen_model(name: str, usual: ModelInfo, notify: Notify) -> None:
    """Report that a plugin chose another model than the usual one."""
    notify(f"using model {name}, which is better here than {usual.name}; --model chooses another")


def report_nothing_to_learn_from(info: ModelInfo, notify: Notify) -> None:
    """Report the model that fills a picture of which nothing is kept, if the usual one learns from the picture."""
    notify(f"nothing is left from which {info.name} could learn; pocket, a small network, fills the picture")


def report_scattered_pixels(picture: Picture, info: ModelInfo, examples: bool, notify: Notify) -> None:
    """Report that the known pixels are too scattered to learn from, if there are no other examples."""
    if info.own_picture and not examples and _is_scattered(picture):
        notify("the known pixels contain no whole square to learn from: holes are filled smoothly from around them")


def report_own_sampler(plugins: Sequence[Plugin], options: Options, notify: Notify) -> None:
    """Report that --sampler only sets the spacing of levels if a plugin has a sampler of its own (ddrm, diffpir)."""
    own = next((p.name for p in plugins if "sampler" in p.claims()), None)
    if own is not None and options.sampler is not None:
        notify(f"{own} has a sampler of its own; --sampler {options.sampler} only sets the spacing of the noise levels")


def report_idle_fill(picture: Picture, info: ModelInfo, notify: Notify) -> None:
    """Report that --fill has no effect on a model that starts from noise."""
    if picture.fill is not None and not info.own_picture:
        notify(
            f"--fill {picture.fill} has no effect: {info.name} starts the hole from noise; `with sdedit --strength "
            f"0.8` starts from the fill"
        )


LARGE_HOLE, LARGE_BORDER = 0.25, 0.15
"""Invented share of the result from which objects repeat or blur: of a hole, and of an extension of the image, which is
known on one side only. The cow of docs/day.md (a quarter) was passable; extensions by 16 to 25 % were poor or bad."""

BLURS_FROM = 21
"""Width in pixels, a third of its window, from which `pocket` fills a hole with blurred colour (docs/pocket.md)."""


def report_invented(picture: Picture, source: Picture, info: ModelInfo, examples: bool, notify: Notify) -> None:
    """Report that the embedded model will invent much of the result, and what that looks like.

    `picture` is the opened one, `source` the input. Nothing is reported if nothing is known, as in a texture.
    """
    mask = picture.mask
    if mask is None or not (info.own_picture or info.name == "pocket"):
        return
    unknown = mask > 0
    share = float(unknown.mean())
    if info.name == "pocket":
        if 0.0 < share < 1.0 and _is_wider(unknown, BLURS_FROM):
            notify(
                f"pocket, a small network, fills holes wider than about {BLURS_FROM} pixels with blurred colour, "
                "without objects; --model patches copies from the image instead"
            )
    elif share < 1.0 and share >= (LARGE_BORDER if picture.size != source.size else LARGE_HOLE):
        pieces = "the images" if examples else "the image"
        notify(
            f"about {5 * round(20 * share)} % of the result is invented: {info.name} joins pieces of {pieces}, so "
            "expect repeated or blurred objects there; a downloaded model draws new ones (editkit models suggest)"
        )


def _is_wider(unknown: np.ndarray, width: int) -> bool:
    """Whether a square of `width` pixels fits into `unknown` (H, W)."""
    import cv2

    return bool(cv2.erode(unknown.astype(np.uint8), np.ones((width, width), np.uint8), borderValue=1).any())


class Planned(Protocol):
    """A planned pass, and the number of its try."""

    @property
    def at(self) -> Pass: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def attempt(self) -> int: ...


def report_idle_options(plugins: Sequence[Plugin], passes: Sequence[Planned], options: Options, notify: Notify) -> None:
    """Report plugins whose window (--start, --stop) contains no step, and --tries if it has no effect."""
    if options.tries > 1 and not any(part.attempt for part in passes):
        notify(f"--tries {options.tries} has no effect: nothing is generated next to known pixels")
    flows = [len(part.plan.flow) for part in passes]
    for plugin in plugins:
        whole = plugin.start <= 0.0 and plugin.stop >= 1.0
        if any(flows) and not whole and not any(plugin.acts(k, n) for n in flows for k in range(n)):
            notify(
                f"{plugin.name} does nothing: none of {max(flows)} steps has its middle between --start "
                f"{plugin.start:g} and --stop {plugin.stop:g}; widen them, or use more --steps"
            )


def report_passes(passes: Sequence[Planned], plugins: Sequence[Plugin], info: ModelInfo, notify: Notify) -> None:
    """Report the padded size if the model cannot take the picture's, and a strength that leaves few levels or none."""
    _report_few_levels(passes, info, notify)
    _report_padding(passes, info, plugins, notify)
    _report_no_levels(passes, plugins, info, notify)


def _is_scattered(picture: Picture) -> bool:
    """Whether some pixels are known, but no square from which patches could be taken."""
    from editkit.models.patches.info import PATCH

    if picture.mask is None or bool((picture.mask > 0).all()) or min(picture.size) < PATCH:
        return False
    import cv2

    known = (picture.mask == 0).astype(np.uint8)
    return not bool(cv2.erode(known, np.ones((PATCH, PATCH), np.uint8), borderValue=0).any())


def _report_few_levels(passes: Sequence[Planned], info: ModelInfo, notify: Notify) -> None:
    """Report a strength that leaves a distilled model fewer levels than it was distilled for, and the remedy."""
    flows, steps = max(((len(part.plan.flow), part.plan.steps) for part in passes), default=(0, 0))
    if info.distilled and 0 < flows < min(info.steps, steps):
        wanted = math.ceil(info.steps * steps / flows)
        notify(
            f"only {flows} of {steps} noise levels are used, but {info.name} was distilled for {info.steps}, so the "
            f"result is coarse; --steps {wanted} uses about as many"
        )


def _report_padding(passes: Sequence[Planned], info: ModelInfo, plugins: Sequence[Plugin], notify: Notify) -> None:
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


def _report_no_levels(passes: Sequence[Planned], plugins: Sequence[Plugin], info: ModelInfo, notify: Notify) -> None:
    """Report that a strength leaves no noise level, so that the model is not called, where that is not implied."""
    if any(p.implied_strength(info) is not None for p in plugins):
        return
    if passes and any(p.diffuses for p in plugins) and not any(part.plan.flow for part in passes):
        steps = max(part.plan.steps for part in passes)
        notify(
            f"none of the {steps} noise levels is left, so {info.name} is not called and the picture stays as it is; "
            "use more --steps, or a higher --strength of sdedit"
        )
