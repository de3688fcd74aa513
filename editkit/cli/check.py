"""`editkit plugins check NAME`: check the contract of a plugin, sampler, model, mask word, engine or detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from editkit.errors import UsageError, short
from editkit.plugin.protocol import Plugin

if TYPE_CHECKING:
    from editkit.editing.contract import LeftOut

T = TypeVar("T")


def check_command(name: str) -> int:
    """Run `editkit plugins check [KIND:]NAME`; returns 1 if the contract is violated or could not be checked.

    Raises:
        UsageError: nothing has this name, or several kinds have it and the kind is not given.
    """
    from editkit.cli.contract_kinds import CONTRACTS, kinds_of
    from editkit.editing import contract
    from editkit.plugin import registry

    kind, colon, bare = name.partition(":")
    kinds = kinds_of(bare if colon else name)
    if colon and kind not in kinds:
        there = f"it is a {' and a '.join(kinds)}" if kinds else "nothing is"
        raise UsageError(f"no {kind} is called {short(bare)}; {there}")
    if not colon and len(kinds) > 1:
        raise UsageError(f"{name} is a {' and a '.join(kinds)}; write {' or '.join(f'{k}:{name}' for k in kinds)}")
    kind, bare = (kind, bare) if colon else ((kinds or ["plugin"])[0], name)
    if kind == "plugin":
        return report_checks(registry.load(bare), bare, {**contract.CHECKS, "typed": typed})
    return report_checks(bare, bare, CONTRACTS[kind][1])


def report_checks(checked: T, name: str, checks: Mapping[str, Callable[[T], LeftOut | None]]) -> int:
    """Print a line for each check and for each case that it left out, and a summary."""
    from editkit.cli.console import write
    from editkit.editing import contract

    width = max(len(check) for check in checks)
    words = {True: "kept", False: "BROKEN", None: "not checked"}
    verdicts = []
    for verdict in contract.verdicts(checked, checks):
        verdicts.append(verdict)
        claim = (checks[verdict.check].__doc__ or "").strip().splitlines()[0]
        word = "kept in part" if verdict.left_out else words[verdict.kept]
        write(f"{word:<12} {verdict.check:<{width}} {verdict.reason or claim}")
        for line in verdict.left_out:
            write(f"{'':<12} {'':<{width}} not tried {line}")
    broken, unchecked = (sum(v.kept is kept for v in verdicts) for kept in (False, None))
    write(f"{name}: {_overall_verdict(len(checks), broken, unchecked, sum(bool(v.left_out) for v in verdicts))}")
    return 1 if broken or unchecked == len(checks) else 0


def _overall_verdict(checks: int, broken: int, unchecked: int, in_part: int) -> str:
    """Return the overall verdict in one line."""
    if broken:
        return f"{broken} of {checks} checks are broken"
    if unchecked == checks:
        return "nothing could be checked"
    missing = [f"{count} {word}" for count, word in ((unchecked, "not checked"), (in_part, "in part")) if count]
    return "keeps the contract" + (f" ({', '.join(missing)})" if missing else "")


def typed(plugin: type[Plugin]) -> None:
    """Its command line parses to the same declaration."""
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
        raise contract.ContractError("its command line parses to a different declaration")
