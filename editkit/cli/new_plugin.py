"""`editkit new-plugin NAME`, for authors of plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def new_plugin(
    name: Annotated[str, typer.Argument(help="The plugin's name: lower-case letters, digits, dashes.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write; default: editkit-NAME.")
    ] = None,
) -> None:
    """Write the package of a plugin called NAME, a working example with tests, to be changed."""
    from editkit.cli.console import say
    from editkit.cli.listing import COMMANDS
    from editkit.cli.scaffold import new_plugin as write_package

    files = write_package(name, output, reserved=frozenset(name for name, _ in COMMANDS))
    for file in files:
        say(f"wrote {file}")
    folder = files[0].parent
    say(f"next: pip install -e {folder} && editkit plugins check {name}")
