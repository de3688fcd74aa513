"""Edit a video frame by frame: temporal consistency, and continuation after an interruption.

Every frame is edited by the same chain with the same noise, or with noise that moves with the scene. If a mask is
filled by a model that learns from the picture, the fill comes from other frames that show the background
(`editkit.editing.frames`); only what no frame shows is generated, once. If the edit starts from the picture, a frame
may start with a fraction of the previous frame's change, moved along the optical flow. A mask may be a video, a folder
of frames, or follow the object that it marks in the first frame.

Finished frames are stored in a folder beside the result until the video is complete; repeating the command continues
from them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from editkit.common.notify import Notify, silent
from editkit.editing.frame_masks import Masks
from editkit.editing.frames import FrameSources, SourceFrame, WithNeighbours
from editkit.editing.result import make
from editkit.editing.settle import describe_model
from editkit.editing.workplace import Workplace
from editkit.errors import PictureError, UsageError
from editkit.models.leasing import Models
from editkit.pictures.files.clips import Clip, Frame, Span, write_clip
from editkit.pictures.motion import estimate_homography, grey, optical_flow, round_to, warp_by_flow
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain, Edits
from editkit.plugin.masking import mask_field
from editkit.plugin.outputs import refuse_plugin_outputs
from editkit.plugin.protocol import Plugin, called, plugins_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from editkit.editing.drifting import Drift
    from editkit.editing.frames import Origin
    from editkit.editing.stages import Update
    from editkit.pictures.motion import Homography, Where
    from editkit.pictures.raster import Pixels


@dataclass(frozen=True)
class Together:
    """Options for temporal consistency.

    Args:
        copy: fill masks from other frames that show the background; None: if the model learns from the picture.
        follow: fraction of the previous frame's change to start a frame with; None: 0.5 for edits that steer, else 0.
        track: the mask is for the first frame, and follows the object that it marks.
        noise_along: noise moves with the scene (`editkit.editing.drifting`); else it is fixed.
    """

    copy: bool | None = None
    follow: float | None = None
    track: bool = False
    noise_along: bool = False


@dataclass(frozen=True)
class VideoProgress:
    """Progress: the number of finished frames, how many pixels of the last one were copied and generated, and its
    result, (H, W, 3); a frame that an earlier run finished counts none.
    """

    done: int
    shown: int
    invented: int
    pixels: Pixels


def edit_video(
    source: str | Path,
    edits: Edits,
    target: str | Path,
    *,
    span: Span | None = None,
    together: Together | None = None,
    quality: int | None = None,
    force: bool = False,
    notify: Notify = silent,
    models: Models | None = None,
    watch: Callable[[VideoProgress], None] | None = None,
    progress: Callable[[Update], None] | None = None,
) -> int:
    """Edit the video `source` and write it to `target`, atomically.

    Finished frames are kept in `TARGET.frames/` until then. After an interruption the same call continues from them,
    with the same result, byte for byte. Memory does not grow with the video's length.

    Args:
        source: the video to edit.
        edits: as for `edit`.
        target: the video to write.
        span: range of frames to edit, and stride; None: the whole video.
        together: options for temporal consistency.
        quality: quality of the encoder.
        force: overwrite an existing target.
        notify: called with messages for the user.
        models: cache of loaded models.
        watch: called after every frame.
        progress: called after every step of a frame's edit, as for `edit`.

    Returns:
        The number of frames.

    Raises:
        EditkitError: the edit failed. The message is one line and includes a fix.
    """
    span, together = span or Span(), together or Together()
    chain = Chain.of(edits).inherited()
    refuse_plugin_outputs(chain, "a video")
    clip = Clip.open(source)
    if clip.alpha:
        notify(f"{source}: its frames have transparency, which is dropped; the result is opaque")
    if clip.unheard:
        notify(f"{source}: has sound of an unknown kind, which is dropped")
    place = Workplace.at(Path(target), clip, chain, (span, together, quality), force=force)
    work = _VideoEdit(clip, chain, span, together, place, functools.cache(notify), models or Models(), watch, progress)
    with place.lock():
        with place.remove_if_empty():
            count = work.frames()
        with place.replace_target() as path:
            write_clip(path, place.finished(count), clip, span, quality)
    return count


@dataclass(frozen=True, eq=False)
class Opening:
    """The start of a video edit: the first frame and its chain, the approximate number of frames (None: unknown), and
    whether holes are filled from other frames.
    """

    picture: Picture
    chain: Chain
    frames: int | None
    copies: bool


def open_video(source: str | Path, edits: Edits, span: Span, together: Together, notify: Notify = silent) -> Opening:
    """Prepare the first frame of a video edit, without running it.

    Raises:
        PictureError: the video cannot be decoded, or has no frame in `span`.
        UsageError: masks or options contradict each other.
    """
    chain, clip = Chain.of(edits).inherited(), Clip.open(source)
    frame = next(clip.frames(span), None)
    if frame is None:
        raise PictureError(f"{clip.path}: no frames in the range that was asked for")
    first = Masks(chain, clip, span, together.track, notify).of(frame)
    return Opening(Picture(frame.pixels), first, clip.estimated_frames(span), copies_frames(chain, together))


def copies_frames(chain: Chain, together: Together) -> bool:
    """Return whether holes are filled from other frames.

    This is the default if a single plugin fills a mask with a model that learns from the picture.

    Raises:
        UsageError: copying is requested but not possible, or --noise-along is requested although frames are copied.
    """
    plugin = _filler(chain)
    able = plugin is not None and describe_model(chain.stages[0]).own_picture
    if able and together.copy is not False and together.noise_along:
        raise UsageError(
            "--noise-along is for edits that generate every frame; this one copies from other frames and propagates "
            "what it generates; leave it out"
        )
    if together.copy and not able:
        raise UsageError("--copy is for one plugin that fills a mask, by a model that learns from the picture")
    return able if together.copy is None else together.copy


@dataclass
class _VideoEdit:
    """One video being edited."""

    clip: Clip
    chain: Chain
    span: Span
    together: Together
    place: Workplace
    notify: Notify
    models: Models
    watch: Callable[[VideoProgress], None] | None
    progress: Callable[[Update], None] | None
    last: tuple[Frame, Pixels] | None = field(default=None)
    """The previous frame and its result."""

    def frames(self) -> int:
        """Edit all unfinished frames, and return the total number of frames."""
        count = 0
        for frame in self._edit_copying() if copies_frames(self.chain, self.together) else self._edit_independently():
            count = frame.index + 1
        if not count:
            raise PictureError(f"{self.clip.path}: no frames in the range that was asked for")
        return count

    def _edit_independently(self) -> Iterator[Frame]:
        """Edit frames independently of each other, except for their starting point."""
        follow = self._follow()
        along = MotionSinceStart() if self.together.noise_along else None
        masks = Masks(self.chain, self.clip, self.span, self.together.track, self.notify)
        for frame in self.clip.frames(self.span):
            chain = masks.of(frame)
            drift = None if along is None else along.to(frame)
            made = self.place.frame(frame.index)
            if made is None:
                made = self._edit(self._start_picture(frame, follow), chain, drift)
                self.place.store_frame(frame.index, frame.time, made)
            self._report(frame, made)
            self.last = (frame, made)
            yield frame

    def _follow(self) -> float:
        if self.together.follow is not None:
            return self.together.follow
        plugins = [plugin for stage in self.chain.stages for plugin in plugins_of(stage)]
        return 0.5 if any(plugin.group == "steer" for plugin in plugins) else 0.0

    def _start_picture(self, frame: Frame, follow: float) -> Picture:
        """Add a fraction of the previous frame's change to the frame, moved along the optical flow."""
        if not follow or self.last is None or self.last[0].pixels.shape != self.last[1].shape:
            return Picture(frame.pixels)
        before, made = self.last
        by = optical_flow(grey(before.pixels), grey(frame.pixels))
        change = made.astype(np.float32) - before.pixels
        moved = warp_by_flow(change, by)
        seen = np.abs(warp_by_flow(before.pixels.astype(np.float32), by) - frame.pixels).mean(2, keepdims=True)
        trust = np.exp(-seen / (8.0 * (257.0 if self.clip.deep else 1.0)))
        return Picture(round_to(frame.pixels + follow * trust * moved, frame.pixels.dtype))

    def _edit_copying(self) -> Iterator[Frame]:
        """Edit frames whose holes are first filled from neighbours and from content generated earlier."""
        sources, times = FrameSources(), dict[int, Fraction]()
        around = WithNeighbours.within_budget(
            self._frames_with_holes(times), float(self.clip.rate), self.clip.size, self.clip.deep
        )
        for shown, others in around:
            frame = Frame(shown.index, times.pop(shown.index), shown.pixels)
            kept = self.place.load_filled(shown.index)
            if kept is None:
                kept = self._complete(frame, shown, *sources.fill(shown, others))
            elif (made := self.place.frame(shown.index)) is not None:
                self._report(frame, made)
            sources.advance(shown, *kept)
            yield frame

    def _complete(self, frame: Frame, shown: SourceFrame, pixels: Pixels, origin: Origin) -> tuple[Pixels, Origin]:
        """Complete and store a frame that was filled from others; return (its filled pixels, their sources)."""
        rest, later = shown.hidden & (origin == 0), Chain(self.chain.stages[1:])
        if rest.any():
            pixels = self._generate(pixels, rest)
            origin = np.where(rest, -(shown.index + 1), origin).astype(np.int32)
        made = self._edit(Picture(pixels), later) if later.stages else pixels
        first = pixels if later.stages and rest.any() else None
        self.place.store_frame(shown.index, frame.time, made, origin, first)
        self._report(frame, made, int(shown.hidden.sum() - rest.sum()), int(rest.sum()))
        return pixels, origin

    def _frames_with_holes(self, times: dict[int, Fraction]) -> Iterator[SourceFrame]:
        """Yield every frame with its hole and the camera motion since the first frame."""
        masks = Masks(self.chain, self.clip, self.span, self.together.track, self.notify)
        since_first: Homography = np.eye(3)
        before: tuple[NDArray[np.uint8], Where] | None = None
        for frame in self.clip.frames(self.span):
            plugin = cast(Plugin, _filler(masks.of(frame)))
            opened: Picture = called(plugin, "open", plugin.open, Picture(frame.pixels), self.notify)
            assert opened.mask is not None
            hidden, seen = opened.mask > 0, grey(frame.pixels)
            if before is not None:
                since_first = estimate_homography(before[0], seen, before[1]) @ since_first
            before = seen, hidden
            times[frame.index] = frame.time
            yield SourceFrame(frame.index, frame.pixels, seen, hidden, since_first)

    def _generate(self, pixels: Pixels, rest: Where) -> Pixels:
        """Generate the rest of the hole with the first stage."""
        chain = Chain(self.chain.stages[:1])
        plugin = cast(Plugin, _filler(chain))
        for name, value in (("mask", rest), ("grow", 0), ("feather", 0), ("invert_mask", False)):
            if name in type(plugin).model_fields:
                chain = chain.with_field(plugin, name, value)
                plugin = cast(Plugin, _filler(chain))
        return self._edit(Picture(pixels), chain)

    def _edit(self, picture: Picture, chain: Chain, drift: Drift | None = None) -> Pixels:
        watch = self.progress or ()
        return make(picture, chain, watch=watch, notify=self.notify, models=self.models, drift=drift).picture.pixels

    def _report(self, frame: Frame, made: Pixels, shown: int = 0, invented: int = 0) -> None:
        if self.watch is not None:
            self.watch(VideoProgress(frame.index + 1, shown, invented, made))


def _filler(chain: Chain) -> Plugin | None:
    """Return the plugin that fills a mask, if it is the only one in the first stage."""
    plugins = plugins_of(chain.stages[0])
    alone = len(plugins) == 1 and plugins[0].fresh and "mask" in plugins[0].claims()
    return plugins[0] if alone and mask_field(plugins[0]) is not None else None


class MotionSinceStart:
    """Accumulates the motion since the first frame."""

    def __init__(self) -> None:
        self.come: NDArray[np.float32] | None = None
        self.seen: NDArray[np.uint8] | None = None

    def to(self, frame: Frame) -> Drift:
        """Return the position in the first frame of every pixel of `frame`; call it for all frames in order."""
        from editkit.editing import drifting

        seen = grey(frame.pixels)
        if self.come is None or self.seen is None:
            self.come = drifting.no_displacement(*seen.shape)
        else:
            self.come = drifting.add_displacement(self.come, optical_flow(self.seen, seen))
        self.seen = seen
        return drifting.drift(self.come)
