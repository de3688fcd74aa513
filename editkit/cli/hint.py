"""`editkit hint`: write the hint that a ControlNet sees, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from editkit.errors import UsageError

app = typer.Typer(add_completion=False)


def _list(wanted: bool) -> None:
    """Show the installed detectors and exit."""
    if not wanted:
        return
    import inspect

    from editkit.cli.console import out, row, table
    from editkit.plugin import hints

    made = table("hint", "parameters", "from", "")
    for found in hints.list_installed():
        if found.kind is None:
            row(made, found.name, "", found.distribution, f"BROKEN: {found.broken}")
            continue
        summary = (inspect.getdoc(found.kind) or "").split("\n", 1)[0]
        row(made, found.name, ", ".join(found.kind.model_fields), found.distribution, summary)
    out().print(made)
    raise typer.Exit


@app.command()
def hint(
    picture: Annotated[str, typer.Argument(help="The photograph; - is standard input.")],
    control: Annotated[
        str, typer.Option(help="A detector, as canny or canny:low=50,high=150.", metavar="NAME[:PARAMETER=VALUE,...]")
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Default: PICTURE's name with .NAME.png; - is standard output.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never connect to the internet.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the installed detectors.", callback=_list, is_eager=True)
    ] = False,
) -> None:
    """Write what a detector sees in PICTURE: the hint that `controlnet --control NAME` passes to its network.

    The hint has the size of the picture. Such a file can be given to --control instead of a detector's name.
    """
    from editkit.cli.console import say
    from editkit.pictures.files.writing import check_distinct, check_output
    from editkit.pictures.picture import Picture
    from editkit.plugin import hints

    detector = hints.make(control)
    target = _target(picture, detector.name, output)
    check_distinct({"--output": target}, [picture])
    check_output(target, force=force)
    photo = Picture.read(picture)
    for notice in photo.meta.notices:
        say(notice)
    made = hints.detect(detector, photo.visible, offline=offline)
    if hints.is_blank(made):
        say(f"the hint is empty: {detector.name} found nothing in {picture}")
    for notice in Picture(made).write(target, force=force).notices:
        say(notice)
    where = "standard output" if target == "-" else target
    say(f"wrote {where} · {detector.name} · {photo.width}x{photo.height}")


def _target(picture: str, name: str, output: str | None) -> str:
    if output is not None:
        return output
    if picture == "-":
        raise UsageError("a picture from standard input has no name; name the hint with -o")
    return str(Path(picture).with_name(f"{Path(picture).stem}.{name}.png"))
