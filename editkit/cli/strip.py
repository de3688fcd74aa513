"""`editkit strip`: take the provenance out of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from editkit.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def strip(
    pictures: Annotated[list[Path], typer.Argument(help="The pictures, changed in place.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Leave the picture as it is and write here (one picture).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
) -> None:
    """Take out what editkit says of how PICTURES were made. Pixels and other metadata stay byte for byte."""
    from editkit.cli.console import say
    from editkit.pictures.files.provenance import strip as take_out
    from editkit.pictures.files.writing import check_output

    if output is not None:
        if len(pictures) > 1:
            raise UsageError(f"-o takes one picture, got {len(pictures)}; leave -o out to change them in place")
        check_output(output, force=force)
    for picture in pictures:
        changed = take_out(picture, output, force=force)
        say(f"{output or picture}: " + ("provenance taken out" if changed else "holds no provenance of editkit's"))
