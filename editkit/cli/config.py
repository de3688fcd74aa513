"""`editkit config`: the default of every option of a run, and where it comes from."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def config(
    show: Annotated[bool, typer.Option("--show", help="Every option, also those left at their own default.")] = False,
) -> None:
    """Show the defaults you have set, with where each comes from: the environment (EDITKIT_STEPS=20), or the file
    ~/.config/editkit/config.toml with the tables defaults, of options, and models, of names for them.
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
