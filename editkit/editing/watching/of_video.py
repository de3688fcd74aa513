"""Preview of a video while it is edited: the frame being worked on, or a short animation of the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from editkit.editing.watching.sheets import eight_bit
from editkit.editing.watching.trace import FRAME_SIDE, FRAMES, encode_animation, estimate, is_due, make_folder
from editkit.errors import UsageError
from editkit.pictures.files.atomic import save_bytes
from editkit.pictures.files.writing import check_output
from editkit.pictures.picture import Picture

if TYPE_CHECKING:
    from editkit.editing.stages import Update
    from editkit.editing.video import VideoProgress

NOW = "now.png"

MOST = 48
"""Largest number of frames in the animation."""


class VideoPreview:
    """Shows the frame being worked on in a folder, as `now.png`; or saves an animation of finished frames at the end.

    `now.png` is replaced by every estimate and every finished frame; replacing is atomic, so a viewer that reloads it
    never sees half a file. The animation has at most `MOST` frames, evenly spaced, however long the video is.

    Args:
        path: a folder, or a name that ends in .webp.
        force: replace an existing file.

    Raises:
        UsageError: the name is not a folder and does not end in .webp, or `now.png` exists already.
        PictureError: it cannot be written.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path, self.force = Path(path), force
        self.moving = self.path.suffix.lower() == ".webp"
        self.frames: list[Image.Image] = []
        self.every = 1
        if self.moving:
            check_output(self.path, force=force)
            return
        make_folder(self.path)
        if (self.path / NOW).exists() and not force:
            raise UsageError(f"--preview {path}: holds {NOW} already; give --force to replace it, or another folder")

    def step(self, update: Update) -> None:
        """Show the estimate after a step, if it is due."""
        if self.moving or not is_due(update, FRAMES):
            return
        pixels = estimate(update)
        if pixels is not None:
            Picture(pixels).write(self.path / NOW, force=True)

    def frame(self, status: VideoProgress) -> None:
        """Show a finished frame."""
        if not self.moving:
            Picture(status.pixels).write(self.path / NOW, force=True)
        elif (status.done - 1) % self.every == 0:
            image = Image.fromarray(eight_bit(status.pixels))
            image.thumbnail((FRAME_SIDE, FRAME_SIDE))
            self.frames.append(image)
            if len(self.frames) > MOST:
                self.frames, self.every = self.frames[::2], 2 * self.every

    def close(self) -> None:
        """Write the animation."""
        if self.frames:
            save_bytes(self.path, encode_animation(self.frames), force=self.force)
