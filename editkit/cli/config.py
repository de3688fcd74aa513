"""`editkit config`: the default of every option of a run, and its source."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def config(
    show: Annotated[bool, typer.Option("--show", help="Show every option, including unset ones.")] = False,
) -> None:
    """Show your own defaults and the source of each: the environment (EDITKIT_STEPS=20) or a file.

    The file ~/.config/editkit/config.toml has the tables defaults, with options, and models, with short names.
    """
    from editkit.cli import settings
    from editkit.cli.console import write
    from editkit.plugin.options import Options
    from editkit.plugin.outputs import Extras

    found = settings.read()
    there = "" if settings.place().is_file() else " (is not there)"
    write(f"file: {settings.place()}{there}")
    for name in settings.KNOWN:
        own = (Options if name in Options.model_fields else Extras).model_fields[name].default
        if name in found.values:
            write(f"{name} = {found.values[name]!r}  ({found.places[name]})")
        elif show:
            write(f"{name} = {own!r}  (default)")
    for name, model in found.models.items():
        write(f"model {name} = {model}")
