"""`editkit plugins check NAME`: whether a plugin keeps the contract, on the command line too."""

from __future__ import annotations

from editkit.plugin import Plugin


def check_command(name: str) -> int:
    """`editkit plugins check NAME`: 1 where the contract is broken."""
    from editkit import contract, registry
    from editkit.cli.console import write

    plugin = registry.load(name)
    checks = {**contract.CHECKS, "typed": typed}
    broken = unchecked = 0
    for verdict in contract.verdicts(plugin, checks):
        said = (checks[verdict.check].__doc__ or "").strip().splitlines()[0]
        word = {True: "kept", False: "BROKEN", None: "not checked"}[verdict.kept]
        broken += verdict.kept is False
        unchecked += verdict.kept is None
        write(f"{word:<12} {verdict.check:<11} {verdict.reason or said}")
    kept = f"keeps the contract ({unchecked} not checked)" if unchecked else "keeps the contract"
    write(f"{name}: " + (f"{broken} of {len(checks)} checks are broken" if broken else kept))
    return 1 if broken else 0


def typed(plugin: type[Plugin]) -> None:
    """Python and command line say the same of it."""
    from editkit import contract, recipe
    from editkit.chain import Chain
    from editkit.cli.words import parse
    from editkit.errors import RecipeError

    chain = Chain.of(contract.example(plugin))
    try:
        words = recipe.to_words(chain, "photo.png")
    except RecipeError as error:
        raise contract.NotChecked(f"its example cannot be written: {error}") from error
    if parse(words).chain.stages[0].plugins != chain.stages[0].plugins:
        raise contract.ContractError("its words are parsed to something else")
