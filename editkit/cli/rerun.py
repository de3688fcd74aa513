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
        str | None, typer.Option("--picture", help="The input picture; default: the recorded file beside PICTURE.")
    ] = None,
    mask: Annotated[list[str] | None, typer.Option(help="Use this mask, not the recorded one.", metavar="MASK")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Where the result goes.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    allow_code: Annotated[bool, typer.Option("--allow-code", help="Allow code that the recipe names.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Download models that the recipe names.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never connect to the internet; the default without --download.")
    ] = False,
) -> int:
    """Make PICTURE again: the same recipe on the same picture gives the same bytes on the same machine.

    The input picture must be available, with the recorded hash. Provenance can be forged: therefore code in the recipe
    is refused without --allow-code, nothing is downloaded without --download, and only files beside the picture are
    read. The exception is a model's folder in the current directory, if it has exactly the recorded weights.
    """
    from editkit.errors import EditkitError, UsageError

    if download and offline:
        raise UsageError("--download and --offline: give one of them")
    here = Path.cwd()
    try:
        with _use_picture_folder(picture, source, mask, output) as (picture, source, mask, output):
            return _rerun(picture, source, mask, output, here, force=force, allow_code=allow_code, offline=not download)
    except EditkitError as error:
        if download or offline or "--offline is on" not in str(error):
            raise
        asked = "rerun connects to the hub only with --download"
        message = str(error).replace("--offline is on, so the hub was not asked", asked)
        raise type(error)(message.replace("--offline is on", asked)) from error


@contextmanager
def _use_picture_folder(
    picture: str, source: str | None, masks: list[str] | None, output: str | None
) -> Iterator[tuple[str, str | None, list[str] | None, str | None]]:
    """Change to the picture's folder, and adapt the paths that the user gave.

    Paths in provenance are relative to the picture, and must not match files in the user's current directory.
    """
    from editkit.pictures.shapes import is_words

    folder = os.path.dirname(picture)
    if not os.path.isdir(folder) or os.path.samefile(folder, os.curdir):
        yield picture, source, masks, output
        return

    def absolute(name: str) -> str:
        return name if name == "-" or is_words(name) else os.path.abspath(name)

    picture, source = absolute(picture), source and absolute(source)
    if output is not None and not ("{" in output and not os.path.dirname(output)):  # a pattern: beside the picture
        output = absolute(output) + ("/" if output.endswith("/") else "")
    masks = None if masks is None else [absolute(mask) for mask in masks]
    with chdir(folder):
        yield picture, source, masks, output


def _find_models(found: Provenance, folder: Path, here: Path) -> dict[str, str]:
    """Find models in the user's directory with exactly the recorded weights: name in provenance -> folder.

    For folders elsewhere, provenance only has the name.
    """
    from editkit.errors import EditkitError
    from editkit.models import describe
    from editkit.models.files.fingerprint import fingerprint

    places = {}
    overs = [None, *_transformer_files(found.recipe)]
    for used in found.models:
        if used.hash is None or (folder / used.name).exists() or not (here / used.name).exists():
            continue
        place = str(here / used.name)
        with suppress(EditkitError):  # then it is reported as not found
            laid = (describe(place, offline=True, transformer=over) for over in overs)
            if any(fingerprint(info) == used.hash for info in laid):
                places[used.name] = place
    return places


def _transformer_files(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Yield the transformer files that a recipe names."""
    stages = mapping.get("stages")
    for stage in stages if isinstance(stages, list) else []:
        options = stage.get("options") if isinstance(stage, Mapping) else None
        over = options.get("transformer") if isinstance(options, Mapping) else None
        if isinstance(over, str):
            yield over


def _replace_models(mapping: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Return the recipe with its models' names replaced according to `places`."""

    def of_stage(stage: Any) -> Any:
        if not isinstance(stage, Mapping) or not isinstance(options := stage.get("options"), Mapping):
            return stage
        model = options.get("model")
        if not isinstance(model, str) or model not in places:
            return stage
        return {**stage, "options": {**options, "model": places[model]}}

    stages = mapping.get("stages")
    return {**mapping, **({"stages": [of_stage(stage) for stage in stages]} if isinstance(stages, list) else {})}


def _compare_weights(found: Provenance, chain: Chain, places: Mapping[str, str], picture: str) -> None:
    """Report models, LoRAs and plugins' networks whose weights differ from those that made `picture`."""
    from editkit.cli.console import say
    from editkit.editing.named_weights import named_weights
    from editkit.editing.settle import describe_model
    from editkit.models import describe
    from editkit.models.files.fingerprint import fingerprint
    from editkit.plugin.options import Options

    stages = [describe_model(stage) for stage in chain.with_options(Options(offline=True)).stages]
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
def _rerun(
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
    """Check the picture's provenance, and make it again."""
    from editkit.cli.console import say
    from editkit.cli.edit import run_line
    from editkit.cli.words import Line
    from editkit.common import trust
    from editkit.editing import recipe
    from editkit.editing.result import hashes
    from editkit.editing.settle import plan_stage
    from editkit.errors import PictureError
    from editkit.pictures.files.provenance import hash_mask, hash_pixels, read_provenance
    from editkit.pictures.picture import Picture
    from editkit.plugin.masking import with_mask
    from editkit.plugin.options import Options
    from editkit.plugin.outputs import Extras
    from editkit.plugin.protocol import plugins_of

    found = read_provenance(picture)
    if found is None:
        raise PictureError(f"{picture}: has no provenance (see editkit show), so it cannot be made again")
    if found.between is not None:
        raise PictureError(
            f"{picture}: is a strip between {found.picture} and {found.between.to}; editkit show says how it was made, "
            "and editkit interpolate makes it"
        )
    trust.check_provenance_paths(
        picture, found.picture if source is None else None, found.recipe
    )  # --mask is the user's own word
    folder = Path(picture).parent
    if source is None:
        if found.picture is None:
            raise PictureError(f"{picture}: does not name its input picture; give it with --picture")
        source = str(folder / found.picture)
        if not Path(source).is_file():
            masked = " (and a mask from a file with --mask)" if found.mask_hash is not None and not new_mask else ""
            raise PictureError(
                f"{source}: is not there, from which {picture} was made; give its place with --picture{masked}"
            )
    edited = Picture.read(source)
    if found.picture_hash is not None and hash_pixels(edited) != found.picture_hash:
        raise PictureError(f"{source}: is not the picture from which {picture} was made; give that with --picture")
    places = _find_models(found, folder, here)
    mapping = _replace_models(recipe.without_outputs(found.recipe), places)
    chain = recipe.from_mapping(mapping, base=folder, allow_code=allow_code)
    _compare_weights(found, chain, places, picture)
    chain = chain.with_options(Options(allow_code=allow_code, offline=offline))
    chain = with_mask(chain, new_mask) if new_mask else chain
    plugins = [plugin for stage in chain.stages for plugin in plugins_of(stage)]
    if hashes((e for plugin in plugins for e in plugin.examples(edited)), edited) != found.example_hashes:
        raise PictureError(f"{picture}: was made with another picture to learn from (--from) than the present one")
    try:
        mask = plan_stage(chain.inherited().stages[0], edited).picture.mask
    except PictureError as error:
        missing = isinstance(error.__context__, FileNotFoundError)
        if new_mask or found.mask_hash is None or not missing:
            raise
        raise PictureError(f"{error}; --mask gives the place of the mask from which {picture} was made") from None
    if not new_mask and found.mask_hash is not None and (mask is None or hash_mask(mask) != found.mask_hash):
        say(f"the mask is not the one with which {picture} was made; the result will differ")
    path = Path(picture)
    target = output or str(path.with_name(f"{path.stem}.rerun{path.suffix}"))
    return run_line(Line((source,), chain, Extras(output=target, force=force)))
