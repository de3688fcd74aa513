"""Edit videos from the command line, with a progress bar of frames and one line at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.cli.console import err, say, write
from editkit.cli.progress import now_and_then
from editkit.cli.words import option_name
from editkit.common.notify import Notify
from editkit.editing.watching.time_left import CountLines
from editkit.errors import UsageError
from editkit.pictures.files.clips import Span, is_clip

if TYPE_CHECKING:
    from rich.progress import Progress

    from editkit.cli.words import Line
    from editkit.editing.stages import Update
    from editkit.editing.video import VideoProgress
    from editkit.editing.watching.of_video import VideoPreview
    from editkit.models.leasing import Models
    from editkit.plugin.outputs import Extras

FOR_PICTURES = ("trace", "compare", "candidates", "watch", "backup")
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
                raise UsageError(f"{option_name(name)} is for {is_for}, but {line.picture} is not one; leave it out")


def edit_clip(line: Line, target: str, models: Models | None, notify: Notify) -> None:
    """Check, edit, write and report one video."""
    from editkit.cli.process import return_free_memory
    from editkit.common.extras import explained
    from editkit.editing.video import Together, edit_video

    extras = line.extras
    if target == "-":
        raise UsageError("a video is written to a file, not to standard output; name one: -o out.mp4")
    span = Span.of(extras.range, extras.stride)
    together = Together(follow=extras.follow, track=extras.track, noise_along=extras.noise_along)
    preview = _preview(extras, target)
    began = time.perf_counter()
    shown = invented = 0
    # output of plugins must not mix with JSON on standard output
    with explained(), _bar(extras) as bar, redirect_stdout(sys.stderr):

        def watch(status: VideoProgress) -> None:
            nonlocal shown, invented
            shown, invented = shown + status.shown, invented + status.invented
            bar.frame(status)
            if preview is not None:
                preview.frame(status)
            return_free_memory()

        def progress(update: Update) -> None:
            bar.step(update)
            if preview is not None:
                preview.step(update)

        count = edit_video(
            line.picture, line.chain, target, span=span, together=together, quality=extras.quality,
            force=extras.force, notify=notify, models=models, watch=watch, progress=progress,
        )  # fmt: skip
    if preview is not None:
        preview.close()
    _report(extras, target, (count, shown, invented), time.perf_counter() - began)


def _report(extras: Extras, target: str, counts: tuple[int, int, int], seconds: float) -> None:
    """Report the video: in one line of JSON, or of text; `counts`: frames, and pixels copied and generated."""
    count, shown, invented = counts
    if extras.json_:
        record = {"output": target, "frames": count, "shown": shown, "invented": invented,
                  "seconds": round(seconds, 2)}  # fmt: skip
        write(json.dumps(record))
    elif not extras.quiet:
        share = f" · {shown / (shown + invented):.0%} of the hole seen in other frames" if shown + invented else ""
        say(f"wrote {Path(target)} · {count} frames · {seconds:.1f} s{share}")


def _preview(extras: Extras, target: str) -> VideoPreview | None:
    """Return the preview that is asked for; a run that continues another one also continues its preview."""
    if extras.preview is None:
        return None
    from editkit.editing.watching.of_video import VideoPreview
    from editkit.editing.workplace import folder_of

    return VideoPreview(extras.preview, force=extras.force or folder_of(Path(target)).exists())


class _Bar:
    """Shows finished frames and, in a progress bar, the steps of the one being worked on."""

    def __init__(self, progress: Progress | None, lines: CountLines | None = None) -> None:
        self.progress, self.lines = progress, lines
        self.task = None if progress is None else progress.add_task("", total=None, step="")

    def frame(self, status: VideoProgress) -> None:
        if self.lines is not None:
            self.lines.advance()
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=status.done, step="")

    def step(self, update: Update) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, step=f"· {update.fraction:.0%} of the next")


@contextmanager
def _bar(extras: Extras) -> Iterator[_Bar]:
    """Show the finished frames and the time: by a bar on a terminal, elsewhere by a line now and then."""
    if extras.quiet or extras.json_:
        yield _Bar(None)
        return
    if not err().is_terminal:
        lines = CountLines("frames")
        with now_and_then(lambda: say(lines.text())):
            yield _Bar(None, lines)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("frame {task.completed} {task.fields[step]}"), TimeElapsedColumn()
    with Progress(*columns, console=err(), transient=True) as progress:
        yield _Bar(progress)
