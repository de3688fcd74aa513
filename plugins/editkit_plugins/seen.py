"""Reading of pictures for image encoders, and a notice about the parts that an encoder does not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from editkit.plugin import EditkitError, Picture, Run, UsageError, at_depth

if TYPE_CHECKING:
    from PIL import Image

    from editkit.models.prompts.vision import ImageEncoder


def read_for_encoder(source: Any, what: str) -> Image.Image:
    """Read a picture as image encoders expect it: RGB, 8 bits, sRGB. `what` names the option in messages.

    Raises:
        UsageError: the picture cannot be read.
    """
    from PIL import Image

    try:
        read = Picture.read(source).coloured_as(None)
    except EditkitError as error:
        raise UsageError(f"{what}: {error}") from error
    return Image.fromarray(at_depth(read.visible, np.uint8))


def report_cropping(name: str, pictures: Sequence[Image.Image], eye: ImageEncoder, run: Run) -> None:
    """Notify the user if the encoder crops a picture to its central square, as CLIP does."""
    for picture in pictures:
        if picture.width != picture.height and getattr(eye.prepare, "do_center_crop", False):
            size = f"{picture.width}x{picture.height}"
            run.notify(f"{name}: the encoder sees only the central square of the picture of {size}")
