"""Repair of a scan: find and fill scratches, folds, spots and torn edges, and undo a colour cast and fading.

Damage is found by the mask words `scratches`, `spots` and `torn`, and filled as `inpaint` does. Fading of a print is
about linear in each channel: y = b + x (w - b) / 255, with the faded black b and white w. They are estimated from the
darkest and the brightest thousandth of the undamaged pixels, and the line is inverted to new ends b' and w':

    x = b' + (y - b) (w' - b') / (w - b).

A wrong correction is worse than none where a picture contains no true black (fog, a page, a close-up of grass).
Therefore it needs strong evidence. Black *and* white of every channel must lie in the range of old prints. At one end
at least the histogram must end abruptly, at a "wall": this happens where true black or white has faded, but not where a
scene merely has few dark pixels. An end with a wall becomes black or white, the other end nearly so. Fading is what the
channels have in common, and the cast is how they differ. A difference above `MOST` is taken as part of the picture (a
sunset) and left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from editkit.pictures.files.writing import check_output
from editkit.pictures.masks import grow
from editkit.pictures.shapes import as_mask, visible_mask
from editkit.plugin import Hooks, Mask, Metavar, Notify, Output, Picture, Run, Section, largest
from editkit_plugins.inpaint import Replacing
from editkit_plugins.masks.scratches import scratches
from editkit_plugins.masks.spots import spots
from editkit_plugins.masks.torn import has_frame, torn

TAIL = 0.001
"""Fraction of the pixels that is darker than black, and that is brighter than white."""

BLACKS, WHITES = (20.0, 75.0), (170.0, 240.0)
"""Ranges of a faded print's black and white, in levels of 255."""

WALL, NEAR = 6.0, 0.01
"""At a wall the darkest (brightest) hundredth of a channel spans at most this many levels."""

MADE, LESS = 2.0, 8.0
"""Distance of the new ends from 0 and 255, with a wall and without one."""

MOST = 30.0
"""Largest difference between the channels' blacks or whites that counts as a cast, in levels of 255."""

LEAST_RANGE = 90.0
"""A picture with fewer levels between black and white is flat, not faded, and is left as it is."""

MUCH = 0.05
"""Warn if more than this fraction is found: the scans of benchmarks/masks.py have 2 to 4 % damage."""

NOUNS = {"scratches": ("scratch", "scratches"), "spots": ("spot", "spots"), "torn": ("torn edge", "torn edges")}
"""One and several of what a finder marks. Scratches that cross count as one."""

Ends = NDArray[np.float64]
"""(3,): one level for each channel, of 255."""


class Repair(Replacing):
    """Repair a scan: find and fill scratches, folds, spots and torn edges, and undo a colour cast and fading.

    Every step can be switched off. Outside the damage, only the correction of cast and fading changes pixels; without
    it they are kept bit for bit.
    """

    name: ClassVar[str] = "repair"
    group: ClassVar[Section] = "repair"
    usage: ClassVar[tuple[str, ...]] = (
        "repair scan.jpg",
        "repair scan.jpg --no-cast --no-fading --save-mask found.png",
        "repair scan.jpg --eagerness 2",
    )
    example: ClassVar[Mapping[str, Any]] = {"grow": 3}

    scratches: bool = Field(True, description="Find scratches, hairs and folds, and fill them.")
    spots: bool = Field(True, description="Find dust and blots, and fill them.")
    torn: bool = Field(True, description="Find torn corners and edges, where the scanner's white or black shows.")
    cast: bool = Field(True, description="Undo a colour cast over the whole picture, where a print has clearly faded.")
    fading: bool = Field(True, description="Restore black and white, where a print has clearly faded.")
    eagerness: float = Field(
        1.0, ge=0.1, le=10.0, description="Sensitivity: 2 also finds damage with half the contrast."
    )
    grow: int = Field(1, ge=0, le=1000, description="Enlarge the damage found by this many pixels.")
    save_mask: Annotated[str | None, Metavar("FILE"), Output()] = Field(
        None, description="Save the filled area as a mask, for inpaint --mask."
    )

    def found(self, picture: Picture, notify: Notify) -> Mask:
        """Return the area to fill, grown: (H, W) of 0 and 1."""
        mask, parts = np.zeros((picture.height, picture.width), np.float32), list[str]()
        finders = (("scratches", self.scratches, scratches), ("spots", self.spots, spots), ("torn", self.torn, torn))
        for name, wanted, find in finders:
            if wanted:
                part = find(picture, self.eagerness)
                parts.append(counted(name, part, f"--no-{name}"))
                mask = np.maximum(mask, part)
        if mask.any():
            notify(f"repair: found {', '.join(parts)}; {self._elsewhere()}")
        if self.torn and has_frame(picture):
            notify("repair: a frame of one tone surrounds the image and is kept; inpaint --mask border:N fills it")
        if mask.mean() > MUCH:
            notify(
                "repair: that is a large share and may include lines that belong to the picture: check with "
                "--save-mask, or find less with --eagerness 0.6"
            )
        return grow(as_mask(mask * visible_mask(picture)), self.grow)

    def _elsewhere(self) -> str:
        """Where to look at what was found."""
        return f"saved as {self.save_mask}" if self.save_mask else "--save-mask FILE.png shows where"

    def open(self, picture: Picture, notify: Notify) -> Picture:
        mask = self.found(picture, notify)
        toned = self.toned(picture, mask, notify)
        if toned is picture and not mask.any():
            notify(
                "repair: found nothing to repair, so the picture stays as it is; --eagerness 2 finds fainter damage, "
                "and inpaint --mask fills what you mark"
            )
        return toned.with_mask(mask, self.fill)

    def toned(self, picture: Picture, damaged: Mask, notify: Notify) -> Picture:
        """Return `picture` with cast and fading undone as the options say; `picture` itself if there are none."""
        top = float(largest(picture.pixels.dtype))
        levels = picture.pixels.astype(np.float32) * np.float32(255.0 / top)
        kept = levels[(damaged == 0) & visible_mask(picture)]
        black, white = ends(kept)
        to_black, to_white = self._aims(black, white, walls(kept))
        if np.allclose(black, to_black) and np.allclose(white, to_white):
            return picture
        notify(
            f"repair: black {_hex(black)} becomes {_hex(to_black)}, white {_hex(white)} becomes {_hex(to_white)}, "
            f"everywhere (--no-cast, --no-fading leave it)"
        )
        undone = to_black + (levels - black) * ((to_white - to_black) / (white - black))
        return picture.with_pixels(np.rint(np.clip(undone, 0.0, 255.0) * (top / 255.0)).astype(picture.pixels.dtype))

    def _aims(self, black: Ends, white: Ends, wall: tuple[bool, bool]) -> tuple[Ends, Ends]:
        """Return the new ends for `black` and `white`; the same ends if the evidence is weak."""
        there = all(low <= v.min() and v.max() <= high for v, (low, high) in ((black, BLACKS), (white, WHITES)))
        if not (there and any(wall)) or (white - black).min() < LEAST_RANGE:
            return black, white
        cast = self.cast and max(float(np.ptp(black)), float(np.ptp(white))) <= MOST
        dark, light = (MADE if wall[0] else LESS), 255.0 - (MADE if wall[1] else LESS)
        if self.fading and cast:
            return np.full(3, dark), np.full(3, light)
        if self.fading:
            return dark + (black - black.min()), light + (white - white.max())
        return (np.full(3, black.mean()), np.full(3, white.mean())) if cast else (black, white)

    def bind(self, run: Run) -> Hooks[Any]:
        if self.save_mask is not None and run.inputs.source is not None:
            hole = run.inputs.original_mask
            found = np.zeros(run.inputs.source.shape[:2]) if hole is None else hole[0, 0].cpu().numpy()
            self._saved(Path(self.save_mask), as_levels(found))
        return super().bind(run)

    def _saved(self, path: Path, mask: NDArray[np.uint8]) -> None:
        """Write the mask (H, W). Every pass of an edit has the same mask, so an equal file is accepted.

        Raises:
            PictureError: another file exists at `path`.
        """
        if path.is_file() and np.array_equal(mask, Picture.read(path).pixels[..., 0]):
            return
        check_output(path)
        Picture(np.repeat(mask[..., None], 3, axis=-1)).write(path)


def counted(name: str, part: Mask, off: str) -> str:
    """Return what a finder marked in words: how many pieces of `part` (H, W), their share, and the option `off`."""
    import cv2

    one, many = NOUNS[name]
    count = cv2.connectedComponents((part > 0).astype(np.uint8), connectivity=8)[0] - 1
    if not count:
        return f"no {many}"
    return f"{count} {one if count == 1 else many} ({float(part.mean()):.1%} of the image; {off} leaves them)"


def ends(levels: NDArray[np.float32]) -> tuple[Ends, Ends]:
    """Estimate black and white of each channel from pixels (N, 3) in levels of 255."""
    if not len(levels):
        return np.zeros(3), np.full(3, 255.0)
    black, white = np.quantile(levels, (TAIL, 1.0 - TAIL), axis=0)
    return black, white


def walls(levels: NDArray[np.float32]) -> tuple[bool, bool]:
    """Whether the histogram of (N, 3) ends abruptly in every channel: (at black, at white)."""
    if not len(levels):
        return False, False
    dark, darker, lighter, light = np.quantile(levels, (TAIL, NEAR, 1.0 - NEAR, 1.0 - TAIL), axis=0)
    return bool((darker - dark).max() <= WALL), bool((light - lighter).max() <= WALL)


def as_levels(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert a mask of 0 and 1 to the levels of a file, 0 and 255."""
    return np.where(mask > 0, 255, 0).astype(np.uint8)


def _hex(levels: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{int(v):02x}" for v in np.clip(np.rint(levels), 0, 255))
