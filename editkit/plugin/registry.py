"""Plugins through entry points, built-ins and strangers alike (group `editkit.plugins`).

Listing names imports nothing. Loading imports one plugin and checks it. One that fails to import is reported with its
reason, and the others work.
"""

from __future__ import annotations

from editkit.common.entries import Group, Listed
from editkit.errors import PluginError
from editkit.plugin.options import Options
from editkit.plugin.outputs import Extras
from editkit.plugin.params import word
from editkit.plugin.protocol import API, DECLARED, Plugin

GROUP = "editkit.plugins"
PLUGINS = Group(GROUP, "plugin", "editkit plugins")

RESERVED = frozenset(
    word(name) for name in (*Options.model_fields, *Extras.model_fields, "help", "picture", "with", "then")
)
"""Names that belong to the run, on every edit command: no plugin's parameter may take them."""


def names() -> list[str]:
    """The names of all installed plugins, sorted; read from metadata alone."""
    return PLUGINS.names()


def load(name: str) -> type[Plugin]:
    """The declaration called `name`.

    Raises:
        UsageError: there is none (the nearest is named).
        PluginError: two distributions have one of that name, it does not import, or it breaks the protocol.
    """
    return check(PLUGINS.load(name), name)


def listed() -> list[Listed[type[Plugin]]]:
    """Every installed plugin, the broken ones with their reason."""
    return PLUGINS.listed(load)


def check(declaration: object, name: str) -> type[Plugin]:
    """`declaration`, if it is a plugin as the protocol wants it.

    Raises:
        PluginError: it is no Plugin, was written for another version, is called otherwise, or a field takes a name
            that belongs to the run or to Plugin itself.
    """
    plugin = PLUGINS.declared(declaration, name, Plugin, API)
    own = set(plugin.model_fields) - set(Plugin.model_fields)
    for taken in sorted(own & (RESERVED | set(dir(Plugin)))):
        raise PluginError(f"plugin {name}: a parameter may not be called {taken!r}, that name belongs to every edit")
    if all(getattr(plugin, hook) is getattr(Plugin, hook) for hook in ("hooks", "bind", *DECLARED)):
        raise PluginError(f"plugin {name}: has neither hooks nor any hook of its own, so it would do nothing")
    return plugin
