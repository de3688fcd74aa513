"""The masks of a chain: finding the parameters that are masks, and replacing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugin.declaration import Declaration
from editkit.plugin.params import params
from editkit.plugin.protocol import plugins_of


def masked(chain: Chain, mask: Any) -> Chain:
    """`chain` with `mask` given to the first plugin that takes one.

    Raises:
        UsageError: none does.
    """
    for plugin in (plugin for stage in chain.stages for plugin in stage.plugins):
        field = mask_field(plugin)
        if field is not None:
            return chain.with_field(plugin, field, mask)
    raise UsageError("masks are given, but no plugin of the recipe takes one; leave --mask and --masks out")


def needs_mask(chain: Chain) -> bool:
    """Whether a plugin that sets the mask was given none."""
    plugins = [plugin for stage in chain.stages for plugin in plugins_of(stage) if "mask" in plugin.claims()]
    return any(getattr(p, field) is None for p in plugins if (field := mask_field(p)) is not None)


def each_mask(chain: Chain, made: Callable[[Any], Any]) -> Chain:
    """`chain` with `made(mask)` in the place of every mask that is set."""
    for plugin in (plugin for stage in chain.stages for plugin in stage.plugins):
        field = mask_field(plugin)
        if field is None or getattr(plugin, field) is None:
            continue
        given = getattr(plugin, field)
        several = isinstance(given, tuple)
        new = tuple(made(one) for one in given) if several else made(given)
        same = all(a is b for a, b in zip(given, new, strict=True)) if several else new is given
        chain = chain if same else chain.with_field(plugin, field, new)
    return chain


def mask_field(plugin: Declaration) -> str | None:
    """The parameter that is a mask."""
    return next((p.name for p in params(type(plugin)) if p.metavar == "MASK"), None)
