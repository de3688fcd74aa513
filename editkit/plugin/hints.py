"""Hints for ControlNets: the output of a detector, as a picture of the same size.

A detector is a declaration like a plugin, registered through its own group of entry points (`editkit.hints`)::

    class Edges(Detector):
        name: ClassVar[str] = "edges"
        threshold: int = Field(40, ge=0, le=255, description="...")

        def __call__(self, pixels):  # (H, W, 3) uint8 -> the same
            ...

Users write `canny`, or with parameters `canny:low=50,high=150`. All hints go through `detect`: whatever size or number
of channels a detector returns, a hint is (H, W, 3) uint8 at the picture's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from editkit.common.entries import Group, InstalledEntry
from editkit.common.extras import explained
from editkit.common.spec import did_you_mean, name_of, values_of
from editkit.errors import EditkitError, HookError, ParameterError, UsageError, short
from editkit.pictures.raster import Pixels
from editkit.plugin.declaration import Declaration

API = 1
"""Version of this protocol. A detector written for another version is refused when it is loaded."""

GROUP = "editkit.hints"
DETECTORS = Group(GROUP, "hint detector", "editkit hint --list")

Detect = Callable[[Pixels], Pixels]
"""Pixels (H, W, 3) uint8 -> the hint."""


class Detector(Declaration):
    """The declaration of a detector with its parameters. Frozen; holds no networks.

    Subclasses define `name`, parameters as fields with a description, and `__call__`, or `ready` if weights must be
    loaded first.
    """

    api: ClassVar[int] = API

    def __call__(self, pixels: Pixels) -> Pixels:
        """Detect the hint of `pixels`, (H, W, 3) uint8 RGB: uint8, (h, w), (h, w, 1) or (h, w, 3)."""
        return self.ready()(pixels)

    def ready(self, *, offline: bool = False) -> Detect:
        """Load weights and return the detecting function. With `offline`, do not connect to the internet."""
        if type(self).__call__ is Detector.__call__:
            raise NotImplementedError(f"{type(self).__name__} must define __call__ or ready")
        return self


def names() -> list[str]:
    """Return the names of all installed detectors, sorted, from package metadata alone."""
    return DETECTORS.names()


def list_installed() -> list[InstalledEntry[type[Detector]]]:
    """Return every installed detector; broken ones carry the reason."""
    return DETECTORS.list_installed(load)


def load(name: str) -> type[Detector]:
    """Load the declaration called `name`.

    Raises:
        UsageError: there is none. The message suggests the closest name and lists all.
        PluginError: two distributions define this name, it cannot be imported, or it violates the protocol.
    """
    if name not in names():
        raise UsageError(unknown_message(name))
    return DETECTORS.check_class(DETECTORS.load(name), name, Detector, API)


def unknown_message(name: str) -> str:
    """Return the message for an unknown detector `name`."""
    hint = did_you_mean(name, names()) or ";"
    return f"no hint detector is called {short(name)}{hint} installed: {', '.join(names())}"


def is_words(source: str) -> bool:
    """Whether `source` names an installed detector, with or without parameters, rather than a file."""
    return name_of(source) in names()


def looks_like_a_file(source: str) -> bool:
    """Whether `source` is a path; a bare word is the name of a detector, perhaps misspelt."""
    path = Path(source)
    return bool(path.suffix) or len(path.parts) > 1 or source == "-" or path.is_file()


def make(spec: str) -> Detector:
    """Create a detector from `name` or `name:parameter=value,...`, such as `canny:low=50,high=150`.

    Raises:
        UsageError: the name, a parameter or a value is invalid.
        PluginError: the detector cannot be loaded.
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
    """Detect the hint of `pixels`, (H, W, 3) uint8 or uint16. The result is (H, W, 3) uint8 at the same size.

    Raises:
        HookError: the detector raised, or returned something that is not a picture.
    """
    return prepare_detector(detector, offline=offline)(pixels)


def prepare_detector(detector: Detector, *, offline: bool = False) -> Detect:
    """Return `detect` as a function for many pictures; weights are loaded once, here."""
    from editkit.pictures.raster import at_depth

    with _naming_errors(detector):
        look = detector.ready(offline=offline)

    def detected(pixels: Pixels) -> Pixels:
        seen = np.ascontiguousarray(at_depth(pixels, np.uint8))
        with _naming_errors(detector):
            made = look(seen.copy())
        return _to_rgb_at_size(detector.name, made, seen.shape[:2])

    return detected


@contextmanager
def _naming_errors(detector: Detector) -> Iterator[None]:
    """Convert any exception into a HookError that names the detector."""
    try:
        with explained():
            yield
    except EditkitError:
        raise
    except (Exception, SystemExit) as error:
        raise HookError(f"hint {detector.name} raised {type(error).__name__}: {error}") from error


def _to_rgb_at_size(name: str, made: Any, size: tuple[int, ...]) -> Pixels:
    """Convert a detector's result to (H, W, 3) uint8 at `size`: repeat greyscale, undo a change of size."""
    if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.ndim not in (2, 3) or not made.size:
        got = f"{made.shape} of {made.dtype}" if isinstance(made, np.ndarray) else type(made).__name__
        raise HookError(f"hint {name} returned {got}; (height, width, 3) of uint8 is needed")
    flat = made if made.ndim == 3 else made[..., None]
    if flat.shape[2] not in (1, 3):
        raise HookError(f"hint {name} returned {flat.shape[2]} channels; 1 or 3 are needed")
    flat = flat if flat.shape[2] == 3 else np.repeat(flat, 3, axis=2)
    return np.ascontiguousarray(resize_hint(flat, size[0], size[1]))


def resize_hint(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize `pixels` (H, W, 3) uint8: by area averages when shrinking, bilinear when enlarging."""
    if pixels.shape[:2] == (height, width):
        return pixels
    import cv2

    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    made: Pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return made


def is_blank(hint: Pixels) -> bool:
    """Whether all pixels are equal, so that there is no structure to follow."""
    return bool((hint == hint[:1, :1]).all())
