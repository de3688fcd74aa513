"""Hints for ControlNets: what a detector sees in a picture, as a picture of the same size.

A detector is a declaration like a plugin, found through entry points of its own (group `editkit.hints`)::

    class Edges(Detector):
        name: ClassVar[str] = "edges"
        threshold: int = Field(40, ge=0, le=255, description="...")

        def __call__(self, pixels):  # (H, W, 3) uint8 -> the same
            ...

and written as `canny`, or with its parameters as `canny:low=50,high=150`. All hints go through `detect`: whatever size
or number of channels a detector gives back, a hint is (H, W, 3) uint8 of the picture's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from editkit.common.entries import Group, Listed
from editkit.common.extras import explained
from editkit.common.spec import did_you_mean, name_of, values_of
from editkit.errors import EditkitError, HookError, ParameterError, UsageError, short
from editkit.pictures.raster import Pixels
from editkit.plugin.declaration import Declaration

API = 1
"""The version of this protocol. A detector that was written for another is refused when it is loaded."""

GROUP = "editkit.hints"
DETECTORS = Group(GROUP, "hint detector", "editkit hint --list")

Detect = Callable[[Pixels], Pixels]
"""(H, W, 3) uint8 -> the hint."""


class Detector(Declaration):
    """A declaration: which detector, with which parameters. Frozen; holds no networks.

    Subclasses give `name`, parameters as fields with a description, and `__call__`, or `ready` where weights are
    loaded first.
    """

    api: ClassVar[int] = API

    def __call__(self, pixels: Pixels) -> Pixels:
        """The hint of `pixels`, (H, W, 3) uint8 RGB."""
        return self.ready()(pixels)

    def ready(self, *, offline: bool = False) -> Detect:
        """The function that detects. The place to load weights; with `offline` no socket may be opened."""
        if type(self).__call__ is Detector.__call__:
            raise NotImplementedError(f"{type(self).__name__} must define __call__ or ready")
        return self


def names() -> list[str]:
    """The names of all installed detectors, sorted; read from metadata alone."""
    return DETECTORS.names()


def listed() -> list[Listed[type[Detector]]]:
    """Every installed detector, the broken ones with their reason."""
    return DETECTORS.listed(load)


def load(name: str) -> type[Detector]:
    """The declaration called `name`.

    Raises:
        UsageError: there is none; the nearest and all that are installed are named.
        PluginError: two distributions have one of that name, it does not import, or it breaks the protocol.
    """
    if name not in names():
        raise UsageError(unknown(name))
    return DETECTORS.declared(DETECTORS.load(name), name, Detector, API)


def unknown(name: str) -> str:
    """What to say where no detector is called `name`."""
    hint = did_you_mean(name, names()) or ";"
    return f"no hint detector is called {short(name)}{hint} installed: {', '.join(names())}"


def is_words(source: str) -> bool:
    """True when `source` names an installed detector (with or without parameters), rather than a file."""
    return name_of(source) in names()


def looks_like_a_file(source: str) -> bool:
    """True for a path; a bare word is the name of a detector, perhaps a misspelt one."""
    path = Path(source)
    return bool(path.suffix) or len(path.parts) > 1 or source == "-" or path.is_file()


def make(spec: str) -> Detector:
    """A detector from `name` or `name:parameter=value,...`, as `canny:low=50,high=150`.

    Raises:
        UsageError: unknown name (the nearest is named), parameter or value.
        PluginError: it cannot be loaded.
    """
    name = name_of(spec)
    kind = load(name)
    values: dict[str, Any] = dict(values_of(spec, f"hint {name}", kind.model_fields))
    try:
        return kind(**values)
    except ParameterError as error:
        space = " " if error.field else ""
        raise UsageError(f"hint {name}: {error.field}{space}{error.reason}") from error


def detect(detector: Detector, pixels: Pixels, *, offline: bool = False) -> Pixels:
    """The hint of `pixels` (H, W, 3), uint8 or uint16: (H, W, 3) uint8, always of the same size.

    Raises:
        HookError: the detector raised, or gave something that is no picture; it is named.
    """
    return ready(detector, offline=offline)(pixels)


def ready(detector: Detector, *, offline: bool = False) -> Detect:
    """`detect` for many pictures: weights are loaded once, here."""
    from editkit.pictures.raster import at_depth

    with _named(detector):
        look = detector.ready(offline=offline)

    def detected(pixels: Pixels) -> Pixels:
        seen = np.ascontiguousarray(at_depth(pixels, np.uint8))
        with _named(detector):
            made = look(seen.copy())
        return _fitted(detector.name, made, seen.shape[:2])

    return detected


@contextmanager
def _named(detector: Detector) -> Iterator[None]:
    """Whatever it raises, it is named."""
    try:
        with explained():
            yield
    except EditkitError:
        raise
    except (Exception, SystemExit) as error:
        raise HookError(f"hint {detector.name} raised {type(error).__name__}: {error}") from error


def _fitted(name: str, made: Any, size: tuple[int, ...]) -> Pixels:
    """`made` as (H, W, 3) uint8 of `size`: greyscale is repeated, a change of size is undone."""
    if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.ndim not in (2, 3) or not made.size:
        got = f"{made.shape} of {made.dtype}" if isinstance(made, np.ndarray) else type(made).__name__
        raise HookError(f"hint {name} gave {got}; (height, width, 3) of uint8 is needed")
    flat = made if made.ndim == 3 else made[..., None]
    if flat.shape[2] not in (1, 3):
        raise HookError(f"hint {name} gave {flat.shape[2]} channels; 1 or 3 are needed")
    flat = flat if flat.shape[2] == 3 else np.repeat(flat, 3, axis=2)
    return np.ascontiguousarray(resized(flat, size[0], size[1]))


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """`pixels` (H, W, 3) uint8 at another size: averaged where it shrinks, bilinear where it grows."""
    if pixels.shape[:2] == (height, width):
        return pixels
    import cv2

    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    made: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return made


def empty(hint: Pixels) -> bool:
    """True when every pixel is the same: there is nothing in it to follow."""
    return bool((hint == hint[:1, :1]).all())
