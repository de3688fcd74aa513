"""A panning scene with something that passes."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from editkit.pictures.files.clips import Clip
from editkit.pictures.picture import Picture

PHOTO = Path(__file__).parents[1] / "assets" / "photos" / "aqueduct.jpg"


W, H, N = 160, 120, 24


def stand(k):
    """Where the camera stands: what takes a point of frame k to the photograph, (2, 3)."""
    a, s = 0.002 * k, 1.6
    return np.array([[np.cos(a) * s, -np.sin(a) * s, 150 + 2.3 * k], [np.sin(a) * s, np.cos(a) * s, 120 + 0.9 * k]])


def scene():
    """Frames of a moving camera over a photograph, exactly; the same with something that passes; where that is."""
    photo = Picture.read(PHOTO).pixels
    y, x = np.mgrid[:H, :W]
    truth, frames, masks = [], [], []
    thing = cv2.GaussianBlur(np.random.default_rng(4).uniform(-600, 800, (H, 2 * W, 3)), None, 2.0)
    thing = np.clip(thing, 0, 255).astype(np.uint8)
    for k in range(N):
        A = stand(k)
        truth.append(cv2.warpAffine(photo, A, (W, H), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))
        mask = ((x - 30 - 5 * k) / 14) ** 2 + ((y - 70) / 18) ** 2 < 1
        frame = truth[-1].copy()
        frame[mask] = thing[:, 5 * (N - k) : 5 * (N - k) + W][mask]
        frames.append(frame)
        masks.append(mask)
    return truth, frames, masks


TRUTH, FRAMES, MASKS = scene()


def written(path, frames, *, codec="ffv1", pix_fmt="bgr0", rate=25, times=None, sound=False):
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=rate)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = pix_fmt
        heard = out.add_stream("aac", rate=44100) if sound else None
        for k, frame in enumerate(frames):
            kind = "rgb48le" if frame.dtype == np.uint16 else "rgb24"
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind).reformat(format=pix_fmt)
            made.pts, made.time_base = (k if times is None else times[k]), Fraction(1, rate)
            out.mux(video.encode(made))
        out.mux(video.encode(None))
        if heard is not None:
            for k in range(45):
                tone = np.sin(np.arange(1024) * (0.05 + 0.001 * k)).astype(np.float32)[None]
                part = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                part.rate, part.pts = 44100, 1024 * k
                out.mux(heard.encode(part))
            out.mux(heard.encode(None))
    return str(path)


def shown(masks):
    return [np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2) for mask in masks]


def read(path):
    return [frame.pixels for frame in Clip.open(path).frames()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return written(tmp_path_factory.mktemp("clip") / "in.mkv", FRAMES)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return written(tmp_path_factory.mktemp("masks") / "masks.mkv", shown(MASKS))


class StopNow(Exception):  # noqa: N818
    """Somebody pulled the plug."""
