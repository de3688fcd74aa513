"""Convert pixels between colour profiles, so that values learned from another picture mean the same colours."""

from __future__ import annotations

import io

import numpy as np

from editkit.errors import PictureError
from editkit.pictures.files.colours import code_points_take_precedence, interpret_chunks
from editkit.pictures.files.metadata import Metadata
from editkit.pictures.raster import Pixels, at_depth


def profile_of(meta: Metadata) -> bytes | None:
    """Return the file's ICC profile, or one for its code points or gamma; None: sRGB."""
    if _has_profile(meta):
        return meta.icc
    meaning = interpret_chunks(meta.chunks)
    return None if meaning is None else meaning[1]


def _has_profile(meta: Metadata) -> bool:
    """Whether the file's own ICC profile describes its colours."""
    return meta.icc is not None and not code_points_take_precedence(meta.chunks)


def convert_profile(pixels: Pixels, have: Metadata, want: Metadata | None) -> Pixels:
    """Convert (H, W, 3) from the profile of `have` to that of `want` (None: sRGB).

    Returns the same array if the profiles are equal or not comparable (neither grey nor RGB). 16-bit pixels are
    converted at 8 bits.

    Raises:
        PictureError: the picture is HDR, which such profiles cannot describe.
    """
    source, target = profile_of(have), None if want is None else profile_of(want)
    meaning = None if _has_profile(have) else interpret_chunks(have.chunks)
    if meaning is not None and meaning[1] is None and (want is None or have.chunks != want.chunks):
        raise PictureError(
            f"a picture whose colours are {meaning[0]} cannot be converted; save it as sRGB or with a profile"
        )
    if target is not None and target[16:20] != b"RGB ":
        target = None
    if source == target:
        return pixels
    from PIL import Image, ImageCms

    try:
        grey = source is not None and source[16:20] == b"GRAY"
        eight = at_depth(pixels, np.uint8)
        image = Image.fromarray(np.ascontiguousarray(eight[..., 0] if grey else eight))
        profiles = [
            ImageCms.ImageCmsProfile(io.BytesIO(one)) if one is not None else ImageCms.createProfile("sRGB")
            for one in (source, target)
        ]
        made = ImageCms.profileToProfile(image, profiles[0], profiles[1], outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return pixels  # an unusable profile is ignored
    return at_depth(np.asarray(made), pixels.dtype)
