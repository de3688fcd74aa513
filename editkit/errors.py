"""What a user can act on: one line that says what, what was got, what is allowed, how to mend it.

The command line prints the message and exits with `exit_code`; nothing here ever reaches a user as a traceback.
"""


def short(value: object, most: int = 80) -> str:
    """`value` as a message shows it: a stranger's value may be as long as it likes."""
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; a list in itself
        shown = type(value).__name__
    return shown if len(shown) <= most else shown[: most - 3] + "..."


class EditkitError(Exception):
    """An edit that could not be done (exit code 1)."""

    exit_code = 1


class UsageError(EditkitError):
    """Words or values that make no sense together (exit code 2)."""

    exit_code = 2


class ParameterError(UsageError, ValueError):
    """A parameter that is unknown, missing or out of range, in Python's words.

    Args:
        owner: what has the parameter, as "Inpaint".
        field: the parameter; "" for all of them.
        reason: what is allowed and what was got.
    """

    def __init__(self, owner: str, field: str, reason: str) -> None:
        super().__init__(owner, field, reason)  # so that it can be sent to another process
        self.owner, self.field, self.reason = owner, field, reason

    def __str__(self) -> str:
        return f"{self.owner}({self.field + '=...' if self.field else ''}): {self.reason}"


class ChainError(UsageError):
    """Plugins that cannot stand together; found before any weight is loaded."""


class RecipeError(UsageError):
    """A recipe that cannot be read, or a chain that cannot be written as one."""


class PluginError(EditkitError):
    """A plugin that cannot be found, imported or trusted with its name."""


class HookError(EditkitError):
    """A plugin's hook that raised, returned the wrong shape, or made NaN or infinity."""


class ModelError(EditkitError):
    """A model that cannot be found or loaded, or that cannot take what it was given."""


class ExtraError(EditkitError):
    """A library that comes with an extra of the package is not installed."""


class PictureError(EditkitError):
    """A picture or mask that cannot be read, used or written."""
