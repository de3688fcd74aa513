"""`editkit models`: list, describe, download and suggest models. Does not import torch."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the available models and the conditions they take: embedded ones, and those in the hub's cache."""
    if context.invoked_subcommand is not None:
        return
    from editkit.cli.console import out, row, table
    from editkit.models import embedded
    from editkit.models.families import cached_models

    made = table("model", "kind", "takes", "sampler", "steps")
    for info in (*embedded(), *cached_models()):
        row(made, info.name, info.family, ", ".join(sorted(info.takes)) or "-", info.sampler, str(info.steps))
    out().print(made)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="As for --model.", metavar="MODEL")],
    offline: Annotated[bool, typer.Option("--offline", help="Never connect to the internet.")] = False,
) -> None:
    """Describe a model: family, conditions that it takes, size, sampler, and where its weights are."""
    from editkit.cli.console import write
    from editkit.cli.settings import read
    from editkit.errors import ModelError
    from editkit.models import describe, folder_of
    from editkit.models.files.fingerprint import fingerprint

    found = describe(read().models.get(name, name), offline=offline)
    try:
        place = folder_of(found.name)
        files = [] if place is None else [place] if place.is_file() else sorted(place.rglob("*.safetensors"))
        here = f"{place}, {sum(file.stat().st_size for file in files) / 1e9:.2f} GB" if place else "it needs none"
    except ModelError:
        here = f"not here yet; editkit models download {name}"
    write(f"model: {found.name}\nfamily: {found.family}\ntakes: {', '.join(sorted(found.takes)) or 'no conditions'}")
    write(f"sampler: {found.sampler}, {found.steps} steps")
    write(f"works on: {f'{found.window} pixels at once' if found.window else 'pictures of any size'}")
    write(f"weights: {here}")
    digest = fingerprint(found)
    if digest is not None:
        write(f"hash: {digest}")


@app.command()
def download(
    name: Annotated[
        str, typer.Argument(help="OWNER/NAME, optionally followed by @REVISION and :VARIANT.", metavar="MODEL")
    ],
) -> None:
    """Download a model from the hub with its weights, so that --offline finds it."""
    from editkit.cli.console import say
    from editkit.cli.settings import read
    from editkit.errors import UsageError
    from editkit.models.families import find_named
    from editkit.models.files.loading import find_layout

    if find_named(name) is not None:
        raise UsageError(f"models: {name} is part of an installed package and needs no download")
    layout = find_layout(read().models.get(name, name), offline=False, weights=True)
    say(f"{name}: {layout.file or layout.path}")


@app.command()
def suggest(
    task: Annotated[str | None, typer.Argument(help="A command: edit, inpaint, sdedit, mask.", metavar="TASK")] = None,
) -> None:
    """Suggest models to download: use, size, GPU, licence, and the command."""
    from editkit.cli.console import write
    from editkit.errors import UsageError
    from editkit.models.suggested import suggested_models, tasks

    rows = suggested_models(task)
    if not rows:
        raise UsageError(f"models suggest: no model is listed for {task!r}; for: {', '.join(tasks())}")
    for row in rows:
        sure = f"as in {row.source}" if row.source else "from memory, not checked"
        write(
            f"{row.name}\n    {row.use}\n    {row.gigabytes:g} GB of files; GPU: {row.card}; {row.licence} ({sure})\n"
            f"    {row.command}"
        )
    write("\nNames, sizes and licences may change: a model's page on the hub is authoritative.")
