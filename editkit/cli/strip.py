"""`editkit strip`: remove the provenance from pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from editkit.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def strip(
    pictures: Annotated[list[Path], typer.Argument(help="The pictures to change in place.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the result here and leave the picture unchanged (one picture only)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
) -> None:
    """Remove the provenance that editkit wrote into PICTURES. Pixels and other metadata stay byte for byte."""
    from editkit.cli.console import say
    from editkit.pictures.files.provenance import strip_file as take_out
    from editkit.pictures.files.writing import check_output

    if output is not None:
        if len(pictures) > 1:
            raise UsageError(f"-o takes one picture, got {len(pictures)}; leave -o out to change them in place")
        check_output(output, force=force)
    for picture in pictures:
        changed = take_out(picture, output, force=force)
        say(f"{output or picture}: " + ("provenance removed" if changed else "has no provenance from editkit"))
