"""`editkit new-plugin NAME` and `editkit plugins check NAME`: for those who write plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def new_plugin(
    name: Annotated[str, typer.Argument(help="The plugin's name: small letters, digits, dashes.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write; default: editkit-NAME.")
    ] = None,
) -> None:
    """Write the package of a plugin called NAME: it installs, works, and passes its own tests; change it from there."""
    from editkit.cli import commands
    from editkit.cli.console import say
    from editkit.scaffold import new_plugin as write_package

    files = write_package(name, output, reserved=frozenset(commands()))
    for file in files:
        say(f"wrote {file}")
    folder = files[0].parent
    say(f"next: pip install -e {folder} && editkit plugins check {name}")


def check_command(name: str) -> int:
    """`editkit plugins check NAME`: 1 where the contract is broken."""
    from editkit import contract, registry
    from editkit.cli.console import write

    plugin = registry.load(name)
    broken = unchecked = 0
    for verdict in contract.verdicts(plugin):
        said = (contract.CHECKS[verdict.check].__doc__ or "").strip().splitlines()[0]
        word = {True: "kept", False: "BROKEN", None: "not checked"}[verdict.kept]
        broken += verdict.kept is False
        unchecked += verdict.kept is None
        write(f"{word:<12} {verdict.check:<11} {verdict.reason or said}")
    kept = f"keeps the contract ({unchecked} not checked)" if unchecked else "keeps the contract"
    write(f"{name}: " + (f"{broken} of {len(contract.CHECKS)} checks are broken" if broken else kept))
    return 1 if broken else 0
