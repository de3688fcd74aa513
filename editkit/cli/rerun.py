"""`editkit rerun FILE`: make a picture again from its provenance."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from editkit.pictures.files.provenance import Provenance
    from editkit.plugin.chain import Chain

app = typer.Typer(add_completion=False)


@app.command()
def rerun(  # long: every parameter is an option with its help
    picture: Annotated[str, typer.Argument(help="A picture that editkit made.")],
    source: Annotated[
        str | None, typer.Option("--picture", help="The picture it was made from; default: its name, beside it.")
    ] = None,
    mask: Annotated[list[str] | None, typer.Option(help="Another mask than it was made with.", metavar="MASK")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where the result goes.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Allow code that the recipe names.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Fetch models that the recipe names.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Open no socket; so it is without --download.")] = False,
) -> int:
    """Make PICTURE again: the same recipe on the same picture gives the same bytes on the same machine.

    The picture it was made from must be at hand, and be the same by its hash; code that the recipe names is refused
    without --allow-code, since provenance can be forged. For the same reason nothing is fetched without --download, and
    no file is read that does not lie beside the picture, but for a model's folder where you are, if it has the very
    weights that made the picture.
    """
    from editkit.errors import EditkitError, UsageError

    if download and offline:
        raise UsageError("--download and --offline: give one of them")
    here = Path.cwd()
    try:
        with _beside(picture, source, mask, output) as (picture, source, mask, output):
            return _again(picture, source, mask, output, here, force=force, allow_code=allow_code, offline=not download)
    except EditkitError as error:
        if download or offline or "--offline is on" not in str(error):
            raise
        asked = "rerun asks the hub with --download only"
        said = str(error).replace("--offline is on, so the hub was not asked", asked)
        raise type(error)(said.replace("--offline is on", asked)) from error


@contextmanager
def _beside(
    picture: str, source: str | None, masks: list[str] | None, output: str | None
) -> Iterator[tuple[str, str | None, list[str] | None, str | None]]:
    """Within it the picture's folder is the present one, and what the user named is named from there.

    Names in provenance are relative to the picture: whatever a plugin makes of them, it must not find a file of that
    name where the user happens to be.
    """
    from editkit.pictures.shapes import is_words

    folder = os.path.dirname(picture)
    if not os.path.isdir(folder) or os.path.samefile(folder, os.curdir):
        yield picture, source, masks, output
        return

    def absolute(name: str) -> str:
        return name if name == "-" or is_words(name) else os.path.abspath(name)

    picture, source = absolute(picture), source and absolute(source)
    if output is not None and not ("{" in output and not os.path.dirname(output)):  # a pattern is beside the picture
        output = absolute(output) + ("/" if output.endswith("/") else "")
    masks = None if masks is None else [absolute(mask) for mask in masks]
    with chdir(folder):
        yield picture, source, masks, output


def _found_here(found: Provenance, folder: Path, here: Path) -> dict[str, str]:
    """Name in provenance -> folder, of models that do not lie beside the picture but where the user is, with the very
    weights that made it: a result says of a folder elsewhere only what it is called.
    """
    from editkit.errors import EditkitError
    from editkit.models import describe
    from editkit.models.files.fingerprint import fingerprint

    places = {}
    overs = [None, *_transformers(found.recipe)]
    for used in found.models:
        if used.hash is None or (folder / used.name).exists() or not (here / used.name).exists():
            continue
        place = str(here / used.name)
        with suppress(EditkitError):  # then it is not found, which is said
            laid = (describe(place, offline=True, transformer=over) for over in overs)
            if any(fingerprint(info) == used.hash for info in laid):
                places[used.name] = place
    return places


def _transformers(told: Mapping[str, Any]) -> Iterator[str]:
    """The files that a recipe lays over its models."""
    stages = told.get("stages")
    for stage in stages if isinstance(stages, list) else []:
        options = stage.get("options") if isinstance(stage, Mapping) else None
        over = options.get("transformer") if isinstance(options, Mapping) else None
        if isinstance(over, str):
            yield over


def _with_models(told: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A recipe whose stages name their models as `places` says."""

    def of_stage(stage: Any) -> Any:
        if not isinstance(stage, Mapping) or not isinstance(options := stage.get("options"), Mapping):
            return stage
        model = options.get("model")
        if not isinstance(model, str) or model not in places:
            return stage
        return {**stage, "options": {**options, "model": places[model]}}

    stages = told.get("stages")
    return {**told, **({"stages": [of_stage(stage) for stage in stages]} if isinstance(stages, list) else {})}


def _compare_weights(found: Provenance, chain: Chain, places: Mapping[str, str], picture: str) -> None:
    """Say which models, LoRAs and networks of plugins have other weights than those that made `picture`."""
    from editkit.cli.console import say
    from editkit.editing.named_weights import named_weights
    from editkit.editing.settle import described
    from editkit.models import describe
    from editkit.models.files.fingerprint import fingerprint
    from editkit.plugin.options import Options

    stages = [described(stage) for stage in chain.with_options(Options(offline=True)).stages]
    for used in found.models:
        if used.hash is None:
            continue
        name = places.get(used.name, used.name)
        here = [info for info in stages if info.name == name] or [describe(name, offline=True)]
        if all(fingerprint(info) != used.hash for info in here):
            say(f"model {used.name} has other weights than those that made {picture}; the result may differ")
    files = named_weights(chain)
    for used in found.files:
        if used.name in dict(files) and (used.name, used.hash) not in files:
            say(f"{used.name} is not the file that made {picture}; the result may differ")


# long: one check of the picture after the other, each with its own line
def _again(
    picture: str,
    source: str | None,
    new_mask: list[str] | None,
    output: str | None,
    here: Path,
    *,
    force: bool,
    allow_code: bool,
    offline: bool,
) -> int:
    """Check what the picture says of itself, and make it again."""
    from editkit.cli.console import say
    from editkit.cli.edit import make
    from editkit.cli.words import Line
    from editkit.common import trust
    from editkit.editing import recipe
    from editkit.editing.made import hashes
    from editkit.editing.settle import plan_stage
    from editkit.errors import PictureError
    from editkit.pictures.files.provenance import hash_mask, hash_pixels, read_provenance
    from editkit.pictures.picture import Picture
    from editkit.plugin.masking import masked
    from editkit.plugin.options import Options
    from editkit.plugin.outputs import Extras
    from editkit.plugin.protocol import plugins_of

    found = read_provenance(picture)
    if found is None:
        raise PictureError(f"{picture}: does not say how it was made (editkit show); nothing can be made again")
    if found.between is not None:
        raise PictureError(
            f"{picture}: is a strip between {found.picture} and {found.between.to}; editkit show says how it was made, "
            "and editkit interpolate makes it"
        )
    trust.beside(picture, found.picture if source is None else None, found.recipe)  # --mask is the user's own word
    folder = Path(picture).parent
    if source is None:
        if found.picture is None:
            raise PictureError(f"{picture}: does not name the picture it was made from; give it with --picture")
        source = str(folder / found.picture)
        if not Path(source).is_file():
            raise PictureError(
                f"{source}: is not there, from which {picture} was made; say where it lies with --picture"
            )
    edited = Picture.read(source)
    if found.picture_hash is not None and hash_pixels(edited) != found.picture_hash:
        raise PictureError(f"{source}: is not the picture that {picture} was made from; give that with --picture")
    places = _found_here(found, folder, here)
    told = _with_models(recipe.without_outputs(found.recipe), places)
    chain = recipe.from_mapping(told, base=folder, allow_code=allow_code)
    _compare_weights(found, chain, places, picture)
    chain = chain.with_options(Options(allow_code=allow_code, offline=offline))
    chain = masked(chain, new_mask) if new_mask else chain
    plugins = [plugin for stage in chain.stages for plugin in plugins_of(stage)]
    if hashes((e for plugin in plugins for e in plugin.examples(edited)), edited) != found.example_hashes:
        raise PictureError(f"{picture}: was made with another picture to learn from (--from) than there is now")
    mask = plan_stage(chain.inherited().stages[0], edited).picture.mask
    if not new_mask and found.mask_hash is not None and (mask is None or hash_mask(mask) != found.mask_hash):
        say(f"the mask is not the one that {picture} was made with; the result will differ")
    path = Path(picture)
    target = output or str(path.with_name(f"{path.stem}.rerun{path.suffix}"))
    return make(Line((source,), chain, Extras(output=target, force=force)))
