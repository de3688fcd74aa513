"""Read and write video files with PyAV, one frame at a time; sound is copied unchanged.

Frames keep their times, so a variable rate is preserved, and their colour tags. The output is H.264 (.mp4, .mov), or
lossless FFV1 in RGB (.mkv), which keeps every pixel.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from editkit.errors import PictureError, UsageError
from editkit.pictures.files.reading import MAX_PIXELS, check_room
from editkit.pictures.raster import Pixels

ENDINGS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".ogv")
"""Names of video files end so."""

WRITTEN = (".mp4", ".mov", ".mkv")
"""What is written."""

CRF = 16
"""Of H.264 where no --quality is given: hardly to be told from the frames."""

KINDS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,ogg,flv"
"""Containers that are read. Others are lists of further files and addresses (concat, HLS, DASH), whoever wrote them."""
READ = {"format_whitelist": KINDS, "protocol_whitelist": "file"}

HELD = 32
"""Bytes a pixel that decoding takes: a decoder holds up to 16 frames to refer to, 1.5 bytes a pixel each, and ours."""

TAGS = ("colorspace", "color_primaries", "color_trc", "color_range")


def is_clip(name: str | Path) -> bool:
    """Whether a name is that of a video file."""
    return Path(name).suffix.lower() in ENDINGS


@dataclass(frozen=True)
class Span:
    """Which frames are taken: from `first` seconds on, up to `last` (None: the end), every `every`-th of these."""

    first: Fraction = Fraction(0)
    last: Fraction | None = None
    every: int = 1

    @classmethod
    def of(cls, text: str | None, every: int = 1) -> Span:
        """From words as `10s-14s`, `0:10-0:14`, `10-` (to the end).

        Raises:
            UsageError: they are none.
        """
        if text is None:
            return cls(every=every)
        begin, dash, end = text.partition("-")
        try:
            first = _seconds(begin) if begin.strip() else Fraction(0)
            last = _seconds(end) if end.strip() else None
            if not dash:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"--range {text}: two times are needed, such as 10s-14s, 0:10-0:14 or 10- (to the end)"
            ) from None
        if last is not None and last <= first:
            raise UsageError(f"--range {text}: ends before it begins")
        return cls(first, last, every)


def _seconds(text: str) -> Fraction:
    total = Fraction(0)
    for part in text.strip().removesuffix("s").split(":"):
        if re.fullmatch(r"[0-9]{1,9}([.][0-9]{1,9})?", part.strip(), re.ASCII) is None:
            raise ValueError  # an exponent can be a number of gigabytes
        total = 60 * total + Fraction(part)
    return total


@dataclass(frozen=True)
class Frame:
    """One frame: its `pixels`, (H, W, 3) uint8 or uint16, upright, and its `time` in seconds from the clip's start."""

    index: int
    time: Fraction
    pixels: Pixels


@dataclass(frozen=True)
class Clip:
    """A video file that can be read any number of times.

    Args:
        path: where it lies.
        size: (width, height), upright.
        rate: frames a second, the mean.
        time_base: of the frames' times, in seconds.
        deep: it has more than 8 bits a channel.
        sound: it has sound.
        alpha: its frames can be transparent, which is not read.
        tags: its colour tags, by PyAV's numbers.
        length: seconds that it lasts, as the file says; None: it does not say.
        unheard: it has sound of a kind that is not known, which is left out.
    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    deep: bool
    sound: bool
    alpha: bool
    tags: dict[str, int]
    length: Fraction | None = None
    unheard: bool = False

    @classmethod
    def open(cls, path: str | Path) -> Clip:
        """Examine the file `path`.

        Raises:
            PictureError: it is not a video, cannot be decoded, or has no picture.
        """
        path = Path(path)
        with _open_container(path) as container:
            stream = container.streams.video[0]
            frame = _first_frame(container, stream, path)
            turned = frame.rotation % 180 != 0
            size = (frame.height, frame.width) if turned else (frame.width, frame.height)
            tags = {name: int(getattr(stream.codec_context, name) or 0) for name in TAGS}
            rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            deep = any(component.bits > 8 for component in frame.format.components)
            alpha = any(component.is_alpha for component in frame.format.components)
            known = [heard.codec_context is not None for heard in container.streams.audio]
            length = None if container.duration is None else Fraction(container.duration, 1_000_000)
            time_base = Fraction(stream.time_base)
            return cls(path, size, rate, time_base, deep, any(known), alpha, tags, length, not all(known))

    def packets(self) -> int:
        """Count the frames of the file by its packets, without decoding."""
        with _open_container(self.path) as container:
            return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size > 0)

    def estimated_frames(self, span: Span) -> int | None:
        """Estimate the number of frames in `span` from the file's duration; None: it has none."""
        if self.length is None:
            return None
        last = self.length if span.last is None else min(self.length, span.last)
        return max(0, math.ceil((last - span.first) * self.rate / span.every))

    def frames(self, span: Span | None = None) -> Iterator[Frame]:
        """Yield the frames within `span`, counted from 0 at its start.

        Raises:
            PictureError: it cannot be decoded to the end, or its frames change size.
        """
        span = span or Span()
        taken = met = 0
        with _open_container(self.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            begin: Fraction | None = None
            for frame in container.decode(stream):
                at = _time(frame, met, self)
                begin = at if begin is None else begin
                time = at - begin
                met += 1
                if time < span.first:
                    continue
                if span.last is not None and time >= span.last:
                    return
                if taken % span.every == 0:
                    yield Frame(taken // span.every, time, self._pixels(frame))
                taken += 1

    def _pixels(self, frame: Any) -> Pixels:
        kind = "rgb48le" if self.deep else "rgb24"
        pixels = np.rot90(frame.to_ndarray(format=kind), (frame.rotation // 90) % 4)
        if pixels.shape[1::-1] != self.size:
            got, wanted = (f"{w}x{h}" for w, h in (pixels.shape[1::-1], self.size))
            raise PictureError(
                f"{self.path}: its frames change from {wanted} to {got}; cut it there and edit the parts separately"
            )
        return np.ascontiguousarray(pixels)


def _time(frame: Any, met: int, clip: Clip) -> Fraction:
    return Fraction(met) / clip.rate if frame.pts is None else frame.pts * Fraction(frame.time_base)


@contextmanager
def _open_container(path: Path) -> Iterator[Any]:
    """Open the container; report the library's errors in one line."""
    import av
    import psutil

    if not os.path.isfile(path):
        raise PictureError(f"{path}: {'is not a file' if os.path.exists(path) else 'no such file'}")
    try:
        with _opened(path) as container:
            if not container.streams.video:
                raise PictureError(f"{path}: has no picture, only sound")
            codec = container.streams.video[0].codec_context
            if codec is None:
                raise PictureError(f"{path}: its video format is not known here; is the file damaged?")
            if codec.width * codec.height > MAX_PIXELS:
                size = f"{codec.width}x{codec.height}"
                raise PictureError(f"{path}: its frames are {size}; at most {MAX_PIXELS:,} pixels can be read")
            needed, free = codec.width * codec.height * HELD, int(psutil.virtual_memory().available)
            check_room(str(path), codec.width, codec.height, needed, free)
            codec.options = {"max_pixels": str(MAX_PIXELS)}
            yield container
    except av.FFmpegError as error:
        raise PictureError(f"{path}: cannot be decoded as a video: {_error_text(error)}") from None


def _opened(path: Path) -> Any:
    """Return the open container. Titles that are not UTF-8 are no error (they are by default before PyAV 19)."""
    import av

    older: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    return av.open(_url(path), options=READ, **older)


def _url(path: Path) -> str:
    """Return a URL that the library takes as a file, whatever the name begins with."""
    return f"file:{os.fspath(path)}"


def _error_text(error: Any) -> str:
    return " ".join(str(error.strerror or error).split())


def _first_frame(container: Any, stream: Any, path: Path) -> Any:
    for frame in container.decode(stream):
        return frame
    raise PictureError(f"{path}: contains no frame that can be decoded")


def write_clip(
    path: Path, frames: Iterator[tuple[Fraction, Pixels]], source: Clip, span: Span, quality: int | None = None
) -> None:
    """Write frames and the source's sound within `span` to `path`, which is replaced, but not atomically.

    Args:
        frames: (seconds since the start of the source, pixels); all of the same size.
        quality: 1 to 100, for H.264; None: visually almost lossless. FFV1 is lossless.

    Raises:
        PictureError: there are no frames, or they cannot be encoded.
    """
    import av

    first = next(frames, None)
    if first is None:
        raise PictureError(f"{source.path}: no frames in the requested range")
    try:
        exact = {"fflags": "+bitexact"}  # no time stamp and no random number in the file
        with (
            av.open(_url(path), "w", options=exact) as out,
            _opened(source.path) as sound,
        ):
            video = _stream(out, path, first[1], source, quality)
            heard = [(s, out.add_stream_from_template(s)) for s in sound.streams.audio if s.codec_context is not None]
            begin = first[0]
            for time, pixels in _chain_first(first, frames):
                for packet in video.encode(_frame(pixels, time - begin, video, source)):
                    out.mux(packet)
            for packet in video.encode(None):
                out.mux(packet)
            for old, new in heard:
                _copy(out, sound, old, new, span, begin)
    except av.FFmpegError as error:
        raise PictureError(f"{path}: cannot be encoded: {_error_text(error)}") from None


def _chain_first(
    first: tuple[Fraction, Pixels], rest: Iterator[tuple[Fraction, Pixels]]
) -> Iterator[tuple[Fraction, Pixels]]:
    yield first
    yield from rest


def _stream(out: Any, path: Path, pixels: Pixels, source: Clip, quality: int | None) -> Any:
    """Add the video stream to a new file."""
    height, width = pixels.shape[:2]
    deep = pixels.dtype == np.uint16
    if path.suffix.lower() == ".mkv":
        video = out.add_stream("ffv1", rate=source.rate)
        video.pix_fmt = "gbrp16le" if deep else "bgr0"
        video.options = {"level": "3", "slicecrc": "1"}
        video.codec_context.color_range = 2
    else:
        whole = width % 2 == 0 and height % 2 == 0
        video = out.add_stream("libx264", rate=source.rate)
        video.pix_fmt = ("yuv420p" if whole else "yuv444p") + ("10le" if deep else "")
        crf = CRF if quality is None else round(51 * (100 - quality) / 100)
        video.options = {"crf": str(crf), "preset": "medium"}
        for name in TAGS:
            setattr(video.codec_context, name, source.tags[name])
    video.width, video.height = width, height
    video.codec_context.time_base = source.time_base
    return video


def _frame(pixels: Pixels, time: Fraction, video: Any, source: Clip) -> Any:
    import av

    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le" if pixels.dtype == np.uint16 else "rgb24")
    if "yuv" in video.pix_fmt:
        frame = frame.reformat(format=video.pix_fmt, dst_colorspace=source.tags["colorspace"] or None)
    else:
        frame = frame.reformat(format=video.pix_fmt)
    frame.pts = round(time / source.time_base)
    frame.time_base = source.time_base
    return frame


def _copy(out: Any, sound: Any, old: Any, new: Any, span: Span, begin: Fraction) -> None:
    """Copy the packets of one sound stream within `span` unchanged, starting at `begin`."""
    base = Fraction(old.time_base)
    start = (old.start_time or 0) * base
    sound.seek(0)
    for packet in sound.demux(old):
        if packet.pts is None:
            continue
        time = packet.pts * base - min(start, Fraction(0))
        if time < begin or (span.last is not None and time >= span.last):
            continue
        packet.pts -= round(begin / base)
        packet.dts = packet.pts
        packet.stream = new
        out.mux(packet)
