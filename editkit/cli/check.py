"""`editkit plugins check NAME`: whether what is installed under a name keeps the contract of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from editkit.errors import UsageError
from editkit.plugin.protocol import Plugin

T = TypeVar("T")


def check_command(name: str) -> int:
    """`editkit plugins check [KIND:]NAME`: 1 where the contract is broken.

    Raises:
        UsageError: nothing is called so, or things of several kinds are and none is named.
    """
    from editkit.cli.contract_kinds import CONTRACTS, kinds_of
    from editkit.editing import contract
    from editkit.plugin import registry

    kind, colon, bare = name.partition(":")
    kinds = kinds_of(bare if colon else name)
    if colon and kind not in kinds:
        there = f"it is a {' and a '.join(kinds)}" if kinds else "nothing is"
        raise UsageError(f"no {kind} is called {bare!r}; {there}")
    if not colon and len(kinds) > 1:
        raise UsageError(f"{name} is a {' and a '.join(kinds)}; write {' or '.join(f'{k}:{name}' for k in kinds)}")
    kind, bare = (kind, bare) if colon else ((kinds or ["plugin"])[0], name)
    if kind == "plugin":
        return _told(registry.load(bare), bare, {**contract.CHECKS, "typed": typed})
    return _told(bare, bare, CONTRACTS[kind][1])


def _told(checked: T, name: str, checks: Mapping[str, Callable[[T], None]]) -> int:
    """A line for each check, and one for all."""
    from editkit.cli.console import write
    from editkit.editing import contract

    width = max(len(check) for check in checks)
    broken = unchecked = 0
    for verdict in contract.verdicts(checked, checks):
        said = (checks[verdict.check].__doc__ or "").strip().splitlines()[0]
        word = {True: "kept", False: "BROKEN", None: "not checked"}[verdict.kept]
        broken += verdict.kept is False
        unchecked += verdict.kept is None
        write(f"{word:<12} {verdict.check:<{width}} {verdict.reason or said}")
    kept = f"keeps the contract ({unchecked} not checked)" if unchecked else "keeps the contract"
    write(f"{name}: " + (f"{broken} of {len(checks)} checks are broken" if broken else kept))
    return 1 if broken else 0


def typed(plugin: type[Plugin]) -> None:
    """Python and command line say the same of it."""
    from editkit.cli.words import parse
    from editkit.editing import contract, recipe
    from editkit.errors import RecipeError
    from editkit.plugin.chain import Chain

    chain = Chain.of(contract.example(plugin))
    try:
        words = recipe.to_words(chain, "photo.png")
    except RecipeError as error:
        raise contract.NotChecked(f"its example cannot be written: {error}") from error
    if parse(words).chain.stages[0].plugins != chain.stages[0].plugins:
        raise contract.ContractError("its words are parsed to something else")
