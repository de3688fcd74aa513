"""The masks of a video's frames: the same for all frames, from a video or folder, or following the marked object."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from editkit.common.notify import Notify
from editkit.errors import PictureError, UsageError
from editkit.pictures.files.clips import Clip, Frame, Span, is_clip
from editkit.pictures.files.formats import PICTURES
from editkit.pictures.masks import read_mask
from editkit.pictures.motion import grey, track_mask
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugin.masking import map_masks

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Masks:
    """The chain with the masks of each frame: the same for all frames, from a video or folder, or tracked."""

    def __init__(self, chain: Chain, clip: Clip, span: Span, track: bool, notify: Notify) -> None:
        self.chain, self.clip, self.notify, self.track = chain, clip, notify, track
        self.moving: NDArray[np.float32] | None = None
        self.seen: NDArray[np.uint8] | None = None
        self.given: dict[str, Iterator[NDArray[Any]]] = {}

        def begun(mask: Any) -> Any:
            if isinstance(mask, str) and mask not in self.given and (is_clip(mask) or os.path.isdir(mask)):
                self.given[mask] = _frames_of(mask, span)
                _check_length(mask, clip, span)
            return mask

        map_masks(chain, begun)
        if track and self.given:
            raise UsageError("--track follows the mask of the first frame, but the given mask has one for every frame")

    def of(self, frame: Frame) -> Chain:
        """Return the chain for `frame`; call it for all frames in order."""
        if self.track:
            return map_masks(self.chain, lambda mask: self._track(mask, frame))
        now = {name: self._next(name, masks, frame) for name, masks in self.given.items()}
        return map_masks(self.chain, lambda mask: now.get(mask, mask) if isinstance(mask, str) else mask)

    def _track(self, mask: Any, frame: Frame) -> NDArray[np.float32]:
        seen = grey(frame.pixels)
        if self.moving is None or self.seen is None:
            self.moving = read_mask(mask, Picture(frame.pixels), notify=self.notify)
        elif seen is not self.seen:
            self.moving = track_mask(self.moving, self.seen, seen)
            if not (self.moving > 0.5).any():
                raise PictureError(f"--track lost the marked object at frame {frame.index}; end before it (--range)")
        self.seen = seen
        return (self.moving > 0.5).astype(np.float32)

    def _next(self, name: str, masks: Iterator[NDArray[Any]], frame: Frame) -> NDArray[Any]:
        mask = next(masks, None)
        if mask is None:
            raise PictureError(
                f"{name}: has {frame.index} frames, but {self.clip.path} has more; a mask is needed for each"
            )
        if mask.shape[:2] != frame.pixels.shape[:2]:
            got, wanted = (f"{s[1]}x{s[0]}" for s in (mask.shape, frame.pixels.shape))
            raise PictureError(f"{name}: its frames are {got}, but the video's are {wanted}")
        return mask


def _check_length(name: str, clip: Clip, span: Span) -> None:
    """Check that there are not more masks than frames in the video; too few are detected when one is missing.

    Raises:
        PictureError: there are more masks.
    """
    if is_clip(name):
        many = Clip.open(name).packets()
    elif span == Span():
        many = sum(path.suffix.lower() in PICTURES for path in Path(name).iterdir())
    else:
        return  # a part of the video, whose number of frames is unknown
    if many > (has := clip.packets()):
        raise PictureError(f"{name}: has {many} frames, but {clip.path} has {has}; one mask for each is needed")


def _frames_of(name: str, span: Span) -> Iterator[NDArray[Any]]:
    """Yield the masks of a video or a folder, for the frames in `span`."""
    if is_clip(name):
        for frame in Clip.open(name).frames(span):
            yield grey(frame.pixels) > 127
        return
    files = sorted(path for path in Path(name).iterdir() if path.suffix.lower() in PICTURES)
    for path in files:
        yield grey(Picture.read(path).pixels) > 127
