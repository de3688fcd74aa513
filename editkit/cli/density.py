"""`editkit density`: the likelihood of a picture under a model, and a map of where it is unlikely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from editkit.errors import UsageError

if TYPE_CHECKING:
    from editkit.editing.picture_density import Density
    from editkit.plugin.options import RunOptions

app = typer.Typer(add_completion=False)


@app.command()
def density(  # long: every parameter is an option with its help
    picture: Annotated[str, typer.Argument(help="The photograph; - is standard input.")],
    model: Annotated[str, typer.Option(help="As for every edit; auto: pocket.")] = "auto",
    prompt: Annotated[str | None, typer.Option(help="Prompt, for models that take text.")] = None,
    steps: Annotated[int, typer.Option(min=4, max=10_000, help="Noise levels of the flow.")] = 50,
    probes: Annotated[
        int, typer.Option(min=1, max=10_000, help="Random probes of a trace; the error is ~ 1 / sqrt of it.")
    ] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Random seed, of probes and dequantisation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto: the fastest available.")] = "auto",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The map, - standard output; default: PICTURE's name, .density.png."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing map.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never connect to the internet.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one line of JSON to standard output.")] = False,
) -> None:
    """Compute the likelihood of PICTURE under a model, in bits per dimension, and draw where it is unlikely.

    Fewer bits are more likely; a picture of independent random pixels has 8. A dimension is one channel of one pixel.
    The map is white where the model would strongly change a pixel, because it does not fit its surroundings.
    """
    from editkit.cli.console import say, write
    from editkit.editing.picture_density import density as judged
    from editkit.pictures.files.writing import check_distinct, check_output
    from editkit.pictures.picture import Picture

    target = _target(picture, output)
    if target == "-" and json_:
        raise UsageError("density: --json and the map cannot both go to standard output; leave one of them out")
    check_distinct({"--output": target}, [picture])
    check_output(target, force=force)
    photo = Picture.read(picture)
    options: RunOptions = {"steps": steps, "seed": seed, "device": device, "offline": offline}
    if prompt is not None:
        options["prompt"] = prompt
    found = judged(photo, model=model, probes=probes, notify=say, **options)
    found.picture().write(target, force=force)
    if json_:
        write(json.dumps({"bits_per_dimension": found.bits, "standard_error": found.error, "values": list(found.size),
                          "latent": found.latent, "map": target}))  # fmt: skip
        return
    say(f"{format_density(found)} · map in {'standard output' if target == '-' else target}")


def format_density(found: Density) -> str:
    """Format the result in one line: bits with their standard error, and the size."""
    error = "" if found.error is None else f" +- {found.error:.3f}"
    of = "latent values" if found.latent else "pixel values"
    return f"{found.bits:.3f}{error} bits per dimension, of {' x '.join(str(n) for n in found.size)} {of}"


def _target(picture: str, output: str | None) -> str:
    if output is not None:
        return output
    if picture == "-":
        raise UsageError("a picture from standard input has no name; name the map with -o")
    return str(Path(picture).with_name(f"{Path(picture).stem}.density.png"))
