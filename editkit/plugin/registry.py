"""The registry of plugins, built-in and third-party, through entry points (group `editkit.plugins`).

Listing names imports nothing. Loading imports one plugin and checks it. A plugin that fails to import is reported with
the reason, and does not affect the others.
"""

from __future__ import annotations

from editkit.common.entries import Group, InstalledEntry
from editkit.errors import PluginError
from editkit.plugin.options import Options
from editkit.plugin.outputs import Extras
from editkit.plugin.params import cli_name
from editkit.plugin.protocol import API, DECLARED, Plugin

GROUP = "editkit.plugins"
PLUGINS = Group(GROUP, "plugin", "editkit plugins")

RESERVED = frozenset(
    cli_name(name) for name in (*Options.model_fields, *Extras.model_fields, "help", "picture", "with", "then")
)
"""Names of the options of every edit command, which no plugin's parameter may have."""


def names() -> list[str]:
    """Return the names of all installed plugins, sorted, from package metadata alone."""
    return PLUGINS.names()


def load(name: str) -> type[Plugin]:
    """Load the declaration called `name`.

    Raises:
        UsageError: there is none. The message suggests the closest name.
        PluginError: two distributions define this name, it cannot be imported, or it violates the protocol.
    """
    return check(PLUGINS.load(name), name)


def list_installed() -> list[InstalledEntry[type[Plugin]]]:
    """Return every installed plugin; broken ones carry the reason."""
    return PLUGINS.list_installed(load)


def check(declaration: object, name: str) -> type[Plugin]:
    """Return `declaration` if it is a valid plugin.

    Raises:
        PluginError: it is not a Plugin, was written for another version, has another name or no hooks, or a field has
            a name that is reserved for the run or for Plugin itself.
    """
    plugin = PLUGINS.check_class(declaration, name, Plugin, API)
    own = set(plugin.model_fields) - set(Plugin.model_fields)
    for taken in sorted(own & (RESERVED | set(dir(Plugin)))):
        raise PluginError(f"plugin {name}: a parameter may not be called {taken!r}, that name belongs to every edit")
    if all(getattr(plugin, hook) is getattr(Plugin, hook) for hook in ("hooks", "bind", *DECLARED)):
        raise PluginError(f"plugin {name}: has neither hooks nor any hook of its own, so it would do nothing")
    return plugin
