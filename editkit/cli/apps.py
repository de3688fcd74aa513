"""Run a Typer app as one of the tool's own commands, with the tool's errors and exit codes."""

from __future__ import annotations

from collections.abc import Callable

import typer

from editkit.errors import UsageError


def runner(app: typer.Typer, name: str) -> Callable[[list[str]], int]:
    """Return a function that runs `app` on words and returns its exit code; usage errors become one line."""

    def run(words: list[str]) -> int:
        try:
            code = app(words, prog_name=name, standalone_mode=False)
        except typer.Exit as done:
            return int(done.exit_code)
        except typer.Abort:
            raise KeyboardInterrupt from None
        except Exception as error:
            if hasattr(error, "format_message"):
                raise UsageError(" ".join(error.format_message()[:600].split())) from error
            raise
        return code if isinstance(code, int) else 0

    return run
