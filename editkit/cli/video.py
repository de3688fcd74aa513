"""Edit videos from the command line, with a progress bar of frames and one line at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.cli.console import err, say, write
from editkit.cli.words import option_name
from editkit.common.notify import Notify
from editkit.errors import UsageError
from editkit.pictures.files.clips import Span, is_clip

if TYPE_CHECKING:
    from collections.abc import Callable

    from editkit.cli.words import Line
    from editkit.editing.video import Told
    from editkit.models.leasing import Models
    from editkit.plugin.outputs import Extras

FOR_PICTURES = ("preview", "trace", "compare", "candidates", "watch", "backup")
"""Options that do not apply to videos."""

FOR_VIDEOS = ("range", "stride", "track", "follow", "noise_along")
"""Options that do not apply to pictures."""


def check_for_videos(lines: Sequence[Line]) -> None:
    """Refuse options for videos with pictures, and options for pictures with videos.

    Raises:
        UsageError: there is such an option.
    """
    for line in lines:
        video = is_clip(line.picture)
        for name in FOR_PICTURES if video else FOR_VIDEOS:
            if name in line.extras.model_fields_set and getattr(line.extras, name) not in (None, False):
                is_for = "pictures" if video else "videos"
                see = (
                    "; finished frames of a video are in OUT.frames/ during the run"
                    if name == "preview" and video
                    else ""
                )
                raise UsageError(
                    f"{option_name(name)} is for {is_for}, but {line.picture} is not one; leave it out{see}"
                )


def edit_clip(line: Line, target: str, models: Models | None, notify: Notify) -> None:
    """Check, edit, write and report one video."""
    from editkit.common.extras import explained
    from editkit.editing.video import Together, edit_video

    extras = line.extras
    if target == "-":
        raise UsageError("a video is written to a file, not to standard output; name one: -o out.mp4")
    span = Span.of(extras.range, extras.stride)
    together = Together(follow=extras.follow, track=extras.track, noise_along=extras.noise_along)
    began = time.perf_counter()
    shown = invented = 0
    with explained(), _bar(extras) as show:

        def watch(told: Told) -> None:
            nonlocal shown, invented
            shown, invented = shown + told.shown, invented + told.invented
            show(told)

        count = edit_video(
            line.picture, line.chain, target, span=span, together=together, quality=extras.quality,
            force=extras.force, notify=notify, models=models, watch=watch,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if extras.json_:
        record = {"output": target, "frames": count, "shown": shown, "invented": invented,
                  "seconds": round(seconds, 2)}  # fmt: skip
        write(json.dumps(record))
    elif not extras.quiet:
        share = f" · {shown / (shown + invented):.0%} of the hole seen in other frames" if shown + invented else ""
        say(f"wrote {Path(target)} · {count} frames · {seconds:.1f} s{share}")


@contextmanager
def _bar(extras: Extras) -> Iterator[Callable[[Told], None]]:
    """Show the finished frames and the frames per second; nothing if the output is not a terminal."""
    if extras.quiet or extras.json_ or not err().is_terminal:
        yield lambda told: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(SpinnerColumn(), TextColumn("frame {task.completed}"), TimeElapsedColumn(), console=err(),
                  transient=True) as progress:  # fmt: skip
        task = progress.add_task("", total=None)
        yield lambda told: progress.update(task, completed=told.done)
