"""`editkit mask`: make a mask from shapes, colours, transparency or other masks, and show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from editkit.errors import UsageError

if TYPE_CHECKING:
    from editkit.pictures.picture import Picture
    from editkit.pictures.shapes import Mask

app = typer.Typer(add_completion=False)

NEAR = 200
"""Pieces closer than the longer side divided by this, or than the feather, count as one object."""


@app.command()
def mask(  # long: every parameter is an option with its help
    picture: Annotated[str, typer.Argument(help="The photograph; - is standard input.")],
    box: Annotated[
        list[str] | None, typer.Option(help="x0,y0,x1,y1 in pixels, or per cent such as 10%.", metavar="X0,Y0,X1,Y1")
    ] = None,
    ellipse: Annotated[list[str] | None, typer.Option(help="The ellipse in that box.", metavar="X0,Y0,X1,Y1")] = None,
    polygon: Annotated[
        list[str] | None, typer.Option(help="Three points or more.", metavar="X0,Y0,X1,Y1,X2,Y2...")
    ] = None,
    color: Annotated[list[str] | None, typer.Option(help="Pixels of similar colour.", metavar="#RRGGBB")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=255.0, help="Largest difference of a channel from --color, of 255.")
    ] = 16.0,
    from_alpha: Annotated[bool, typer.Option("--from-alpha", help="Where the photograph is transparent.")] = False,
    border: Annotated[int | None, typer.Option(min=1, help="A border of this width, in pixels.")] = None,
    add: Annotated[
        list[str] | None, typer.Option(help="Another mask: a file, or words such as box:0,0,50%,50%.", metavar="MASK")
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(help="Subtract: a file, or words such as ellipse:9,9,40,40.", metavar="MASK")
    ] = None,
    mask_model: Annotated[
        list[str] | None,
        typer.Option(help="Folder of a network for mask words; repeatable.", metavar="DIR"),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Regenerate what is outside instead.")] = False,
    grow: Annotated[int, typer.Option(min=0, help="Widen by this many pixels.")] = 0,
    feather: Annotated[int, typer.Option(min=0, help="A soft edge inside the mask, this many pixels wide.")] = 0,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Default: PICTURE's name with .mask.png; - is standard output.")
    ] = None,
    each: Annotated[
        Path | None,
        typer.Option(
            help="Write every separate piece into this folder, with transparent surroundings; pieces closer than a "
            "200th of the longer side, or --feather, count as one.",
            metavar="DIR",
        ),
    ] = None,
    show: Annotated[Path | None, typer.Option(help="Write the photograph with the mask drawn over it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Make a mask for PICTURE: white = regenerate.

    The mask is the union of all shapes; then --minus subtracts, --invert inverts, --grow widens, --feather softens.
    """
    from editkit.cli.console import say
    from editkit.pictures.files.writing import check_distinct, check_output
    from editkit.pictures.masks import check, connected_parts, feather_inside, overlay
    from editkit.pictures.masks import grow as widen
    from editkit.pictures.picture import Picture
    from editkit.pictures.shapes import path_exists

    target = _target(picture, output)
    check_distinct({"--output": target, "--show": show}, [picture])
    given = [name for name in (*(add or ()), *(minus or ())) if path_exists(name)]
    check_distinct({"--output": target, "--show": show}, given, first="--output")
    check_output(target, force=force)
    if show is not None:
        check_output(show, force=force)
    _check_folder(each, force)
    united = [f"box:{value}" for value in box or ()]
    united += [f"ellipse:{value}" for value in ellipse or ()]
    united += [f"polygon:{value}" for value in polygon or ()]
    united += [f"color:{value}" if "~" in value else f"color:{value}~{tolerance:g}" for value in color or ()]
    united += ["alpha"] if from_alpha else []
    united += [] if border is None else [f"border:{border}"]
    united += add or ()
    if not united:
        raise UsageError(
            "no shape was given; use --box, --ellipse, --polygon, --color, --border, --from-alpha or --add, "
            "several for their union"
        )
    photo = Picture.read(picture)
    made = _combine(photo, united, minus or [], mask_model or [])
    if invert:
        made = 1.0 - made
    check(made, "the mask", notify=say)
    made = feather_inside(widen(made, grow), feather)
    for notice in _as_picture(made).write(target, force=force).notices:
        say(notice)
    if show is not None:
        Picture.read(overlay(photo, made)).write(show, force=force)
    if each is not None:
        stem = Path(target).stem if picture == "-" else Path(picture).stem
        apart = max(feather, round(max(photo.size) / NEAR))
        say(f"{each}: {_cut_out(photo, connected_parts(made, apart), each, stem, force)}")
    share = float((made > 0).mean())
    where = "standard output" if target == "-" else target
    say(f"{where}: {photo.width}x{photo.height}, {share:.2%} will be regenerated")


def _target(picture: str, output: str | None) -> str:
    if output is None:
        if picture == "-":
            raise UsageError("a picture from standard input has no name; name the mask with -o")
        return str(Path(picture).with_name(f"{Path(picture).stem}.mask.png"))
    from editkit.pictures.files.formats import EXACT

    if output != "-" and Path(output).suffix.lower() not in EXACT:
        raise UsageError(f"{output}: a mask needs a lossless file; use one of {' '.join(EXACT)}")
    return output


def _check_folder(each: Path | None, force: bool) -> None:
    """Raise UsageError if the pieces cannot be written, before the work starts."""
    if each is not None and each.exists() and not each.is_dir():
        raise UsageError(f"--each {each}: is a file; give a folder for the pieces")
    if each is not None and each.is_dir() and any(each.iterdir()) and not force:
        raise UsageError(f"--each {each}: is not empty; give another folder, or --force")


def _cut_out(photo: Picture, found: list[Mask], folder: Path, stem: str, force: bool) -> str:
    """Write each piece as STEM.N.png into `folder`, cropped to its box; returns a text with their number."""
    import numpy as np

    from editkit.pictures.picture import Picture
    from editkit.pictures.raster import largest

    folder.mkdir(parents=True, exist_ok=True)
    for number, piece in enumerate(found, 1):
        rows, columns = np.flatnonzero(piece.any(axis=1)), np.flatnonzero(piece.any(axis=0))
        cut = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        top = largest(photo.pixels.dtype)
        own = np.full(photo.pixels.shape[:2], top, photo.pixels.dtype) if photo.alpha is None else photo.alpha
        alpha = np.rint(piece[cut] * own[cut]).astype(photo.pixels.dtype)
        Picture(photo.pixels[cut].copy(), alpha).write(folder / f"{stem}.{number}.png", force=force)
    return f"{len(found)} piece{'s' if len(found) != 1 else ''}"


def _combine(photo: Picture, united: list[str], minus: list[str], models: list[str]) -> Mask:
    """Return the union of `united` without `minus`, (H, W)."""
    import numpy as np

    made = _draw_one(photo, united[0], models)
    for source in united[1:]:
        made = np.maximum(made, _draw_one(photo, source, models))
    for source in minus:
        made = np.minimum(made, 1.0 - _draw_one(photo, source, models))
    return made


def _draw_one(photo: Picture, source: str, models: list[str]) -> Mask:
    """Draw one shape or read one file. It may be empty: only the union must not be."""
    from editkit.pictures.masks import load

    return load(source, photo, models=models)


def _as_picture(mask: Mask) -> Picture:
    """Convert a mask to 8-bit greyscale. Values above 0 stay above 0, so the end of a feather is not rounded away."""
    import numpy as np

    from editkit.pictures.picture import Picture

    levels = np.where(mask > 0, np.maximum(np.rint(mask * 255.0), 1.0), 0.0)
    return Picture.read(levels.astype(np.uint8))
