"""Keep of an edit only what it changed; everything else is the original picture, bit for bit.

Models that edit by instruction return the whole picture, shifted by some pixels, tinted and re-encoded. This plugin
measures the shift and undoes it, matches the colours, finds what still differs (`editkit.pictures.changes`), and blends
the edit into the picture there, softly where the edge is uncertain. It works with any edit of a whole picture:
`sdedit`, `translate`, `edit`, and, with `--edited`, the result of another program, without a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from editkit.plugin import Figures, Hooks, PictureSource, Plugin, Run, Section, Slot, UsageError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor

    from editkit.pictures.changes import Changes
    from editkit.plugin import Notify, Picture

STRETCH = 0.03
"""Largest relative difference of the two aspect ratios: some programs round the sides."""


class OnlyChanges(Plugin):
    """Keep of an edit only what it changed; every other pixel is the picture's own, bit for bit.

    A shift of the unchanged part is measured, reported and undone, and its colours are matched.
    """

    name: ClassVar[str] = "only-changes"
    group: ClassVar[Section] = "steer"
    usage: ClassVar[tuple[str, ...]] = (
        "only-changes photo.png --edited from_another_program.png",
        "sdedit photo.png --model DIR --prompt oil --strength 0.4 with only-changes",
        'translate cat.png --model DIR --source "a cat" --prompt "a dog" with only-changes',
    )
    order: ClassVar[int] = 200
    diffuses: ClassVar[bool] = False
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"edited": np.full((30, 36, 3), 90, np.uint8)}

    edited: PictureSource | None = Field(
        None, description="An edited version of the picture from another program; default: this process's result."
    )

    def claims(self) -> frozenset[Slot]:
        """Claim further slots for an edit from a file: it replaces the whole picture, with no process of its own."""
        held: frozenset[Slot] = frozenset() if self.edited is None else frozenset({"begin", "mask", "size"})
        return super().claims() | held

    def open(self, picture: Picture, notify: Notify) -> Picture:
        if self.edited is not None:
            check_aspect(type(picture).read(self.edited).size, picture.size)
        return picture

    def hooks(self) -> type[Hooks[OnlyChanges]]:
        return _OnlyChangesHooks


class _OnlyChangesHooks(Hooks[OnlyChanges]):
    def __init__(self, plugin: OnlyChanges, run: Run) -> None:
        super().__init__(plugin, run)
        self.found: Changes | None = None

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        original = self.run.inputs.original
        assert original is not None
        if self.plugin.edited is not None:
            edited = self._edited_picture(original)
        elif bool((image != original).any()):
            edited = image
        else:
            raise UsageError(
                "only-changes has no edit to compare: give --edited FILE, or put it after an edit (sdedit photo.png "
                "--strength 0.4 with only-changes)"
            )
        before = original if self.plugin.edited is None else image
        result, self.found = only_changes(original, edited, before, self.run.notify)
        return result

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        return {} if self.found is None else figures(self.found)

    def _edited_picture(self, original: Tensor) -> Tensor:
        """Read the picture of `--edited`, resized to the original: (1, 3, h, w) in [-1, 1]."""
        from editkit.plugin import Picture, to_unit

        assert self.plugin.edited is not None
        edited = Picture.read(self.plugin.edited).coloured_as(self.run.inputs.file)
        height, width = original.shape[-2:]
        if edited.size != (width, height):
            check_aspect(edited.size, (width, height))
            size = f"{edited.width}x{edited.height}"
            self.run.notify(f"only-changes: the edited picture, {size}, is resized to {width}x{height}")
            edited = edited.resized(width, height)
        return to_unit(edited.visible).to(original.device)


def check_aspect(edited: tuple[int, int], picture: tuple[int, int]) -> None:
    """Raise UsageError if the aspect ratios differ; both sizes are (width, height)."""
    apart = (edited[0] / edited[1]) / (picture[0] / picture[1])
    if not 1.0 / (1.0 + STRETCH) <= apart <= 1.0 + STRETCH:
        sizes = [f"{width}x{height}" for width, height in (edited, picture)]
        raise UsageError(
            f"only-changes: the edited picture is {sizes[0]} and the picture {sizes[1]}, with another aspect ratio; "
            f"give both uncropped"
        )


def only_changes(original: Tensor, edited: Tensor, onto: Tensor, notify: Notify) -> tuple[Tensor, Changes]:
    """Blend into `onto` what `edited` changed of `original`; all are (1, 3, h, w) in [-1, 1].

    Returns the result, (1, 3, h, w), and the changes.
    """
    import torch

    from editkit.pictures.changes import find_changes

    found = find_changes(_pixels(original), _pixels(edited))
    mask = torch.from_numpy(found.mask).to(original)[None, None]
    matched = 2.0 * torch.from_numpy(found.edited).to(original).permute(2, 0, 1)[None] - 1.0
    if found.share == 1.0:
        notify("only-changes: the edit changed the whole picture, so no pixel is kept; the result is the edit itself")
    elif not found.share:
        notify("only-changes: no change was found, so the picture stays as it is")
    return onto.where(mask == 0, matched.where(mask == 1, onto + mask * (matched - onto))), found


def _pixels(image: Tensor) -> NDArray[np.float32]:
    """Convert (1, 3, h, w) in [-1, 1] to (h, w, 3) in [0, 1]."""
    unit: NDArray[np.float32] = ((image[0].clamp(-1.0, 1.0) + 1.0) / 2.0).permute(1, 2, 0).cpu().numpy()
    return unit


def figures(found: Changes) -> Figures:
    """Return the figures reported after the run and in --json."""
    right, down = found.shift
    values: dict[str, float | str] = {
        "changed_percent": 100.0 * found.share,
        "shift_right_px": round(right, 2),
        "shift_down_px": round(down, 2),
        "tint_levels": found.tint,
    }
    return values if abs(found.zoom - 1.0) < ZOOMED else {**values, "zoom": f"{found.zoom:.4f}"}


ZOOMED = 2e-4
"""A zoom closer to 1 than this, a pixel in 5,000, is not reported."""
