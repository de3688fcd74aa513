"""Take of an edit only what it changed: everything else is the picture, bit for bit.

Models that edit by instruction give the whole picture back, shifted by pixels, tinted and encoded anew. Here the shift
is measured and undone, the colours are matched, what is then still different is found (`editkit.pictures.changes`), and
the edit is put into the picture there, fading where the edge is not sure. It serves any edit of a whole picture:
`sdedit`, `translate`, `edit`, and with `--edited` what another program made, without a model.
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
"""How far the ratio of an edited picture's sides may be from the picture's: some programs round sides."""


class OnlyChanges(Plugin):
    """Keep of an edit only what it changed; every other pixel is the picture's own, bit for bit.

    The shift of what should not have moved is measured, said and undone, and the colours are matched.
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
        None, description="An edited version of the picture, made elsewhere; default: what this process makes."
    )

    def claims(self) -> frozenset[Slot]:
        """An edit from a file is one of the whole picture, and is begun by nobody else."""
        held: frozenset[Slot] = frozenset() if self.edited is None else frozenset({"begin", "mask", "size"})
        return super().claims() | held

    def open(self, picture: Picture, notify: Notify) -> Picture:
        if self.edited is not None:
            fitting(type(picture).read(self.edited).size, picture.size)
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
            edited = self._elsewhere(original)
        elif bool((image != original).any()):
            edited = image
        else:
            raise UsageError(
                "only-changes has no edit to look at: give --edited FILE, or put it behind an edit (sdedit photo.png "
                "--strength 0.4 with only-changes)"
            )
        before = original if self.plugin.edited is None else image
        result, self.found = only_changes(original, edited, before, self.run.notify)
        return result

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        return {} if self.found is None else figures(self.found)

    def _elsewhere(self, original: Tensor) -> Tensor:
        """The edit in `--edited`, (1, 3, h, w) in [-1, 1], at the size of the picture."""
        from editkit.plugin import Picture, to_unit

        assert self.plugin.edited is not None
        edited = Picture.read(self.plugin.edited).coloured_as(self.run.inputs.file)
        height, width = original.shape[-2:]
        if edited.size != (width, height):
            fitting(edited.size, (width, height))
            size = f"{edited.width}x{edited.height}"
            self.run.notify(f"only-changes: the edited picture, {size}, is resized to {width}x{height}")
            edited = edited.resized(width, height)
        return to_unit(edited.visible).to(original.device)


def fitting(edited: tuple[int, int], picture: tuple[int, int]) -> None:
    """Refuses an edit of other aspect than the picture; both sizes (width, height)."""
    apart = (edited[0] / edited[1]) / (picture[0] / picture[1])
    if not 1.0 / (1.0 + STRETCH) <= apart <= 1.0 + STRETCH:
        sizes = [f"{width}x{height}" for width, height in (edited, picture)]
        raise UsageError(
            f"only-changes: the edited picture is {sizes[0]} and the picture {sizes[1]}, of other shape; "
            f"give the two uncropped"
        )


def only_changes(original: Tensor, edited: Tensor, onto: Tensor, notify: Notify) -> tuple[Tensor, Changes]:
    """(1, 3, h, w) in [-1, 1]: `onto` with what `edited` changed of `original`; and what that is."""
    import torch

    from editkit.pictures.changes import find

    found = find(_pixels(original), _pixels(edited))
    mask = torch.from_numpy(found.mask).to(original)[None, None]
    matched = 2.0 * torch.from_numpy(found.edited).to(original).permute(2, 0, 1)[None] - 1.0
    if found.share == 1.0:
        notify(
            "only-changes: the edit changed the whole picture, so nothing of it is kept; the result is the edit itself"
        )
    elif not found.share:
        notify("only-changes: no change was found, so the picture stays as it came")
    return onto.where(mask == 0, matched.where(mask == 1, onto + mask * (matched - onto))), found


def _pixels(image: Tensor) -> NDArray[np.float32]:
    """(h, w, 3) in [0, 1] of (1, 3, h, w) in [-1, 1]."""
    unit: NDArray[np.float32] = ((image[0].clamp(-1.0, 1.0) + 1.0) / 2.0).permute(1, 2, 0).cpu().numpy()
    return unit


def figures(found: Changes) -> Figures:
    """What is said of it, after the run and in --json."""
    right, down = found.shift
    said: dict[str, float | str] = {
        "changed_percent": 100.0 * found.share,
        "shift_right_px": round(right, 2),
        "shift_down_px": round(down, 2),
        "tint_levels": found.tint,
    }
    return said if abs(found.zoom - 1.0) < ZOOMED else {**said, "zoom": f"{found.zoom:.4f}"}


ZOOMED = 2e-4
"""A zoom nearer to 1 is none: a pixel in 5,000."""
