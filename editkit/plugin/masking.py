"""Find and replace the mask parameters of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugin.declaration import Declaration
from editkit.plugin.params import params
from editkit.plugin.protocol import plugins_of


def with_mask(chain: Chain, mask: Any) -> Chain:
    """Return `chain` with `mask` set on the first plugin that takes a mask.

    Raises:
        UsageError: no plugin takes a mask.
    """
    for plugin in (plugin for stage in chain.stages for plugin in stage.plugins):
        field = mask_field(plugin)
        if field is not None:
            return chain.with_field(plugin, field, mask)
    raise UsageError("masks are given, but no plugin of the recipe takes one; leave --mask and --masks out")


def needs_mask(chain: Chain) -> bool:
    """Whether a plugin that sets the edit's mask has none."""
    plugins = [plugin for stage in chain.stages for plugin in plugins_of(stage) if "mask" in plugin.claims()]
    return any(getattr(p, field) is None for p in plugins if (field := mask_field(p)) is not None)


def map_masks(chain: Chain, made: Callable[[Any], Any]) -> Chain:
    """Return `chain` with every mask replaced by `made(mask)`."""
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
    """Return the name of the mask parameter; None if there is none."""
    return next((p.name for p in params(type(plugin)) if p.metavar == "MASK"), None)
