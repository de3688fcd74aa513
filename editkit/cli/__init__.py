"""The command line. The first word is a plugin or one of the tool's own commands; see `editkit --help`.

torch is imported only when a picture is actually edited.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence

from editkit.cli.process import configure_process, install_signal_handlers, prepare_exit
from editkit.common.extras import missing
from editkit.errors import EditkitError, UsageError

INTERRUPTED = 130

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a full disk, an exhausted quota or a failing device."""


def main(words: Sequence[str] | None = None) -> None:
    """Entry point of the console script: run `words` (default: those of the process) and exit."""
    install_signal_handlers()
    words = sys.argv[1:] if words is None else list(words)
    configure_process(
        offline="--offline" in words or (words[:1] == ["rerun"] and "--download" not in words) or _set_offline()
    )
    code = run(words)
    prepare_exit()
    sys.exit(code)


def _set_offline() -> bool:
    """Whether the user's settings enable --offline. Errors in the settings are reported when they are used."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if "EDITKIT_OFFLINE" not in os.environ and not os.path.isfile(os.path.join(home, "editkit", "config.toml")):
        return False  # nothing is imported to know this
    from editkit.cli.settings import read

    try:
        return bool(read().values.get("offline"))
    except EditkitError:
        return False


def run(words: list[str]) -> int:
    """Run one command, and return its exit code: 0 done, 1 the edit failed, 2 wrong usage, 130 interrupted."""
    from editkit.cli.console import bounded, say

    try:
        return _dispatch(words)
    except EditkitError as error:
        say("error: " + bounded(str(error)))
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except OSError as error:
        if os.environ.get("EDITKIT_TRACEBACK") or not (error.errno in NO_ROOM or (error.errno and error.filename)):
            return _unforeseen(error)
        what = "cannot be written" if error.errno in NO_ROOM else "cannot be used"
        say(f"error: {bounded(str(error.filename or 'standard output'))}: {what}: {error.strerror}")
        return 1
    except Exception as error:
        missing_extra = missing(error) if isinstance(error, ImportError) else None
        if missing_extra is not None:
            say(f"error: {missing_extra}")
            return missing_extra.exit_code
        return _unforeseen(error)


def _unforeseen(error: Exception) -> int:
    """Report an unexpected error in one line, or with a traceback if EDITKIT_TRACEBACK is set."""
    from editkit.cli.console import bounded, say

    if os.environ.get("EDITKIT_TRACEBACK"):
        raise error
    say(
        f"error: {type(error).__name__}: {bounded(str(error))} "
        "(this should not happen; EDITKIT_TRACEBACK=1 shows where)"
    )
    return 1


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        from editkit.cli.listing import overview

        return overview()
    if words[0] in ("-V", "--version", "version"):
        from editkit.cli.listing import version

        return version()
    command = commands().get(words[0])
    if command is not None:
        return command()(words[1:])
    if words[0].startswith("-"):
        raise UsageError(f"the first word is a plugin or a command, got {words[0]!r}; editkit --help lists them")
    from editkit.cli.edit import edit_command

    return edit_command(words)


Command = Callable[[list[str]], int]


# long: a table of commands, each imported when it is called
def commands() -> dict[str, Callable[[], Command]]:
    """Return the tool's own commands, each imported when it is called."""

    def plan() -> Command:
        from editkit.cli.plan import plan_command

        return plan_command

    def recipe() -> Command:
        from editkit.cli.edit import run_command

        return run_command

    def plugins() -> Command:
        from editkit.cli.listing import plugins_command

        return plugins_command

    def completion() -> Command:
        from editkit.cli.completion import completion_command

        return completion_command

    def complete() -> Command:
        from editkit.cli.completion import complete_command

        return complete_command

    def folder() -> Command:
        from editkit.cli.batch import batch_command

        return batch_command

    def grid() -> Command:
        from editkit.cli.grid import grid_command

        return grid_command

    def interpolate() -> Command:
        from editkit.cli.interpolate import interpolate_command

        return interpolate_command

    def typer_app(module: str) -> Callable[[], Command]:
        def load() -> Command:
            from importlib import import_module

            from editkit.cli.apps import runner

            return runner(import_module(f"editkit.cli.{module}").app, f"editkit {module.replace('_', '-')}")

        return load

    return {
        "plan": plan,
        "run": recipe,
        "batch": folder,
        "grid": grid,
        "interpolate": interpolate,
        "plugins": plugins,
        "models": typer_app("models"),
        "completion": completion,
        "complete": complete,
        "config": typer_app("config"),
        "doctor": typer_app("doctor"),
        "train": typer_app("train"),
        "mask": typer_app("mask"),
        "density": typer_app("density"),
        "score": typer_app("score"),
        "hint": typer_app("hint"),
        "show": typer_app("show"),
        "strip": typer_app("strip"),
        "studio": typer_app("studio"),
        "rerun": typer_app("rerun"),
        "new-plugin": typer_app("new_plugin"),
    }
