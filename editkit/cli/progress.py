"""Progress of an edit, a batch or a video: a bar on a terminal; elsewhere a line now and then, so that a log shows it.

A single call of a model may take minutes, and no step is reported during it. So the lines come from a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from editkit.cli.console import err, say
from editkit.editing.watching.time_left import TimeLeft

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from editkit.editing.stages import Update
    from editkit.plugin.outputs import Extras

EVERY = 20.0
"""Seconds between two lines. What takes less says nothing."""


@contextmanager
def now_and_then(tell: Callable[[], None], stopped: Event | None = None) -> Iterator[None]:
    """Call `tell` every `EVERY` seconds, from a thread, while the block runs. `stopped` ends the thread when set."""
    end = stopped or Event()

    def beat() -> None:
        while not end.wait(EVERY):
            try:
                tell()
            except (OSError, ValueError):  # standard error was closed: nobody reads it
                return

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class _Steps:
    """Moves the progress bar of an edit."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[int, TaskID] = {}

    def __call__(self, update: Update) -> None:
        if update.stage not in self.tasks:
            names = " + ".join(plugin.name for plugin in update.plan.plugins)
            self.tasks[update.stage] = self.progress.add_task(names, total=update.plan.moves, calls=0)
        passes = update.plan.passes[: update.pass_]
        calls = sum(part.cost.calls for part in passes) + update.state.calls
        self.progress.update(self.tasks[update.stage], advance=1, calls=calls)


def _ignore(update: Update) -> None:
    """Watch nothing."""


@contextmanager
def edit_progress(extras: Extras) -> Iterator[Callable[[Update], None]]:
    """Yield the callback after every move of an edit: for a bar on a terminal, for lines elsewhere."""
    if extras.quiet or extras.json_:
        yield _ignore
        return
    if not err().is_terminal:
        lines = TimeLeft()
        with now_and_then(lambda: say(lines.text())):
            yield lines
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("steps · {task.fields[calls]} network calls ·"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err(), transient=True) as progress:
        yield _Steps(progress)
