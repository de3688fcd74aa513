"""Errors that a user can act on. A message is one line: what is wrong, what was given, what is allowed, how to fix it.

The command line prints the message and exits with `exit_code`; users never see a traceback of these errors.
"""


def short(value: object, most: int = 80) -> str:
    """Format `value` for a message, in at most `most` characters."""
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits; a list that contains itself
        shown = type(value).__name__
    return shown if len(shown) <= most else shown[: most - 3] + "..."


class EditkitError(Exception):
    """An edit that failed (exit code 1); the base class of all errors here."""

    exit_code = 1


class UsageError(EditkitError):
    """Invalid arguments, or arguments that contradict each other (exit code 2)."""

    exit_code = 2


class ParameterError(UsageError, ValueError):
    """A parameter that is unknown, missing or out of range; the message uses Python's names.

    Args:
        owner: the class that has the parameter, such as "Inpaint".
        field: the parameter; "" for the whole object.
        reason: what was given and what is allowed.
    """

    def __init__(self, owner: str, field: str, reason: str) -> None:
        super().__init__(owner, field, reason)  # so that it can be pickled
        self.owner, self.field, self.reason = owner, field, reason

    def __str__(self) -> str:
        return f"{self.owner}({self.field + '=...' if self.field else ''}): {self.reason}"


class ChainError(UsageError):
    """Plugins that cannot be combined; detected before any weights are loaded."""


class RecipeError(UsageError):
    """A recipe that cannot be read, or a chain that cannot be written as one."""


class PluginError(EditkitError):
    """A plugin that cannot be found or imported, or whose name is ambiguous or invalid."""


class HookError(EditkitError):
    """A plugin's hook that raised, or returned the wrong shape, NaN or infinity."""


class ModelError(EditkitError):
    """A model that cannot be found or loaded, or that does not support its input."""


class ExtraError(EditkitError):
    """A library from one of the package's extras that is not installed."""


class PictureError(EditkitError):
    """A picture or mask that cannot be read, used or written."""
