"""`editkit show`: show how a picture was made, and the contents of its file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from editkit.pictures.files.provenance import Provenance

app = typer.Typer(add_completion=False)


@app.command()
def show(
    picture: Annotated[str, typer.Argument(help="The picture; - is standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    recipe: Annotated[bool, typer.Option("--recipe", help="Only the recipe, as YAML for editkit run.")] = False,
) -> int:
    """Show how PICTURE was made: recipe, models, seed, versions, and hashes of the inputs.

    Exit code 1 if the picture has no provenance.
    """
    from editkit.cli.console import say, write
    from editkit.pictures.files.provenance import read_provenance

    found = read_provenance(picture)
    if found is None:
        say(f"{picture}: has no provenance from editkit")
        return 1
    if as_json:
        write(found.to_text())
    elif recipe:
        write(_yaml(dict(found.recipe)))
    else:
        for line in _lines(found):
            write(line)
    return 0


def _yaml(value: object) -> str:
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if not text.replace("\n", "").isprintable():  # written as escapes, which read back as the same
        text = yaml.safe_dump(value, sort_keys=False)
    return text.rstrip("\n")


def _lines(found: Provenance) -> list[str]:
    """For people."""
    lines = ["recipe:", *(f"  {line}" for line in _yaml(dict(found.recipe)).splitlines())]
    lines += [f"model: {model.name}" + (f" ({model.hash})" if model.hash else "") for model in found.models]
    lines += [f"weights: {file.name}" + (f" ({file.hash})" if file.hash else "") for file in found.files]
    lines += [f"seed: {found.seed}"]
    lines += [f"{package}: {version}" for package, version in sorted(found.versions.items())]
    if found.picture is not None:
        lines.append(f"picture: {found.picture}")
    if found.between is not None:
        lines.append(
            f"between it and: {found.between.to or '-'} ({found.between.to_hash}), {found.between.frames} frames, "
            f"{found.between.mix}"
            + (f", by the text {found.between.prompt_to}" if found.between.prompt_to is not None else "")
        )
    if found.picture_hash is not None:
        lines.append(f"picture's pixels: {found.picture_hash}")
    lines += [f"another picture's pixels: {hash_}" for hash_ in found.example_hashes]
    if found.mask_hash is not None:
        lines.append(f"mask: {found.mask_hash}")
    return lines
