"""Repair of a scan: scratches, folds and spots are found and filled, a cast and fading are undone.

What is found is what the mask words `scratches` and `spots` find; it is filled as `inpaint` fills a mask. A print fades
by about a straight line in each channel, y = b + x (w - b) / 255 with its black b and white w. These are read from the
darkest and the brightest thousandths of what is not damaged, and the line is undone,

    x = b' + (y - b) (w' - b') / (w - b).

Undoing is worse than leaving where a picture has no black of its own (fog, a page, a close-up of grass), so it is done
only on strong evidence: black *and* white of every channel lie where old prints have theirs, none is touched otherwise,
and at one end at least the pixels stop as at a wall, as they do where black was black before it faded; where a scene
only thins out towards its darkest thing there is none. The end with a wall becomes black or white, the other nearly.
Fading is what the channels have in common; the cast is where they differ from that, and is undone unless they differ by
more than `MOST`, which is the picture's own (a sunset).
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
from editkit.pictures.shapes import as_mask, seen
from editkit.plugin import Hooks, Mask, Metavar, Notify, Output, Picture, Run, Section, largest
from editkit_plugins.inpaint import Replacing
from editkit_plugins.masks.scratches import scratches
from editkit_plugins.masks.spots import spots

TAIL = 0.001
"""What of the pixels is darker than black, and brighter than white."""

BLACKS, WHITES = (20.0, 75.0), (170.0, 240.0)
"""Where the black and the white of a faded print lie, in levels of 255."""

WALL, NEAR = 6.0, 0.01
"""At a wall the darkest (brightest) hundredth of a channel lies within so many levels."""

MADE, LESS = 2.0, 8.0
"""How far from 0 and 255 an end becomes that has a wall, and one that has none."""

MOST = 30.0
"""How far apart the channels' blacks or whites may lie, in levels of 255, to be a cast."""

LEAST_RANGE = 90.0
"""Fewer levels between black and white are no faded photograph's but a flat picture's: it is left as it is."""

MUCH = 0.05
"""What is found of a picture above this is told: the scans of benchmarks/masks.py have 2 to 4 % damaged."""

Ends = NDArray[np.float64]
"""(3,): a level of each channel."""


class Repair(Replacing):
    """Mend a scan: find scratches, folds and spots and fill them, undo its cast and fading. Every step can be left out.

    Pixels outside of what was found change by the cast and the fading alone; without these they are kept bit for bit.
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
    cast: bool = Field(True, description="Undo a colour that lies over everything, where a print has clearly faded.")
    fading: bool = Field(True, description="Undo what made black grey and white dull, where it clearly did.")
    eagerness: float = Field(
        1.0, ge=0.1, le=10.0, description="Sensitivity: 2 also finds what stands out half as much."
    )
    grow: int = Field(1, ge=0, le=1000, description="Enlarge what was found by this many pixels.")
    save_mask: Annotated[str | None, Metavar("FILE"), Output()] = Field(
        None, description="Write what is filled as a mask, for inpaint --mask."
    )

    def found(self, picture: Picture, notify: Notify) -> Mask:
        """(H, W) of 0 and 1: what is to be filled, grown."""
        mask = np.zeros((picture.height, picture.width), np.float32)
        said = []
        for name, wanted, find in (("scratches", self.scratches, scratches), ("spots", self.spots, spots)):
            if wanted:
                part = find(picture, self.eagerness)
                said.append(f"{name} {float(part.mean()):.2%}")
                mask = np.maximum(mask, part)
        if said:
            notify(f"repair: found {' and '.join(said)} of the picture")
        if mask.mean() > MUCH:
            notify(
                "repair: that is much, and lines of the picture's own may be among it: look with --save-mask, or find "
                "less with --eagerness 0.6"
            )
        return grow(as_mask(mask * seen(picture)), self.grow)

    def open(self, picture: Picture, notify: Notify) -> Picture:
        mask = self.found(picture, notify)
        toned = self.toned(picture, mask, notify)
        if toned is picture and not mask.any():
            notify(
                "repair: found nothing to mend, and the picture stays as it is; --eagerness 2 finds fainter things, "
                "and inpaint --mask fills what you mark"
            )
        return toned.with_mask(mask, self.fill)

    def toned(self, picture: Picture, damaged: Mask, notify: Notify) -> Picture:
        """`picture` with cast and fading undone where they are wanted; itself where there are none."""
        top = float(largest(picture.pixels.dtype))
        levels = picture.pixels.astype(np.float32) * np.float32(255.0 / top)
        kept = levels[(damaged == 0) & seen(picture)]
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
        """What the channels' `black` and `white` are to become; themselves without strong evidence."""
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
        """Write the mask, whole; every pass of an edit has the same.

        Raises:
            PictureError: something else lies there.
        """
        if path.is_file() and np.array_equal(mask, Picture.read(path).pixels[..., 0]):
            return
        check_output(path)
        Picture(np.repeat(mask[..., None], 3, axis=-1)).write(path)


def ends(levels: NDArray[np.float32]) -> tuple[Ends, Ends]:
    """Black and white of each channel of (N, 3)."""
    if not len(levels):
        return np.zeros(3), np.full(3, 255.0)
    black, white = np.quantile(levels, (TAIL, 1.0 - TAIL), axis=0)
    return black, white


def walls(levels: NDArray[np.float32]) -> tuple[bool, bool]:
    """Whether the pixels stop as at a wall in the dark, and in the light, in every channel."""
    if not len(levels):
        return False, False
    dark, darker, lighter, light = np.quantile(levels, (TAIL, NEAR, 1.0 - NEAR, 1.0 - TAIL), axis=0)
    return bool((darker - dark).max() <= WALL), bool((light - lighter).max() <= WALL)


def as_levels(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask of 0 and 1 as a file has it."""
    return np.where(mask > 0, 255, 0).astype(np.uint8)


def _hex(levels: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{int(v):02x}" for v in np.clip(np.rint(levels), 0, 255))
