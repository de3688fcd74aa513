"""Entry points of a group, built-in and third-party.

Listing names imports nothing. Loading imports one object. If two distributions use the same name, the error names both.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Generic, TypeVar

from editkit.common.spec import did_you_mean
from editkit.errors import PluginError, UsageError, short

T = TypeVar("T")

Path = tuple[tuple[str, int], ...]
"""Folders with packages, each with the time of its last change."""


@dataclass(frozen=True)
class InstalledEntry(Generic[T]):
    """One installed declaration for the listing command: its `kind`, or the reason why it is broken."""

    name: str
    distribution: str
    kind: T | None
    broken: str | None = None


@dataclass(frozen=True)
class Group:
    """A group of entry points.

    Args:
        name: the group of entry points, such as `editkit.plugins`.
        kind: the word for one of them in messages, such as "plugin".
        listing: the command that lists them.
    """

    name: str
    kind: str
    listing: str

    def points(self) -> tuple[EntryPoint, ...]:
        """All entry points of the group, from the metadata of installed packages.

        Cached until a folder of `sys.path` changes: every edit asks, and reading the metadata of all packages takes
        longer than the rest of the engine's work.
        """
        return _read(self.name, _path_key())

    def names(self) -> list[str]:
        """Return the sorted names, from metadata alone."""
        return sorted({point.name for point in self.points()})

    def load(self, name: str) -> object:
        """Load the object of the entry point called `name`.

        Raises:
            UsageError: there is none (the message suggests the nearest).
            PluginError: two distributions have that name, or it cannot be imported.
        """
        points = self._distinct(name)
        if not points:
            hint = did_you_mean(name, self.names()) or f"; {self.listing} lists what is installed"
            raise UsageError(f"no {self.kind} is called {short(name)}{hint}")
        if len(points) > 1:
            owners = self.owner(name)
            raise PluginError(f"{self.kind} {name}: {owners} both have one of that name; uninstall one of them")
        try:
            with redirect_stdout(sys.stderr):  # standard output may carry a result
                loaded: object = points[0].load()
        except BaseException as error:  # an error in a third-party module must not affect others
            if isinstance(error, KeyboardInterrupt) and _was_interrupted():
                raise
            reason = f"{type(error).__name__}: {short(str(error), 400)}"
            raise PluginError(f"{self.kind} {name} (from {_owner(points[0])}) does not import: {reason}") from error
        return loaded

    def check_class(self, found: object, name: str, base: type[T], api: int) -> type[T]:
        """Return `found` if it is a subclass of `base` for version `api` with the name `name`.

        Raises:
            PluginError: it is not.
        """
        if not (isinstance(found, type) and issubclass(found, base)):
            door = ".".join(base.__module__.split(".")[:2])  # the public module to import it from
            needed = f"a subclass of {door}.{base.__name__} is needed"
            raise PluginError(f"{self.kind} {name}: its entry point is {found!r}; {needed}")
        self._check_version(name, getattr(found, "api", None), api)
        self._check_name(name, getattr(found, "name", None))
        return found

    def check_attributes(self, found: object, name: str, needed: Sequence[str], api: int = 1) -> object:
        """Return `found` if it has all `needed` attributes, and is for version `api` of the protocol.

        Without an `api` attribute the version is 1. If `needed` includes `name`, it must equal `name`.

        Raises:
            PluginError: an attribute is missing, or the name or version differs.
        """
        lacking = [attribute for attribute in needed if not hasattr(found, attribute)]
        if lacking:
            what = found.__name__ if isinstance(found, type | ModuleType) else repr(found)
            raise PluginError(f"{self.kind} {name}: {what} lacks {', '.join(lacking)}; it needs {', '.join(needed)}")
        self._check_version(name, getattr(found, "api", 1), api)
        if "name" in needed:
            self._check_name(name, getattr(found, "name", None))
        return found

    def _check_version(self, name: str, theirs: object, api: int) -> None:
        if theirs != api:
            raise PluginError(
                f"{self.kind} {name} was written for version {theirs} of the {self.kind} protocol, this is {api}; "
                f"install a version of it made for this editkit"
            )

    def _check_name(self, name: str, theirs: object) -> None:
        if theirs != name:
            raise PluginError(
                f"{self.kind} {name}: its attribute `name` is {theirs!r}; it must equal its entry point's name"
            )

    def list_installed(self, load: Callable[[str], T]) -> list[InstalledEntry[T]]:
        """List all installed ones, loaded with `load`; broken ones with the reason."""
        rows = []
        for name in self.names():
            owner = self.owner(name)
            try:
                rows.append(InstalledEntry(name, owner, load(name)))
            except PluginError as error:
                rows.append(InstalledEntry(name, owner, None, str(error)))
        return rows

    def owner(self, name: str) -> str:
        """Return the distribution of `name`; several are joined by "and"."""
        return " and ".join(sorted(_owner(point) for point in self._distinct(name)))

    def _distinct(self, name: str) -> tuple[EntryPoint, ...]:
        """Return the entry points called `name`; a distribution that is twice on the path counts once."""
        return _entries_named(self.name, name, _path_key())


def _path_key() -> Path:
    return tuple((folder, _modified_at(folder)) for folder in sys.path)


@lru_cache(maxsize=64)
def _read(group: str, path: Path) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


@lru_cache(maxsize=256)
def _entries_named(group: str, name: str, path: Path) -> tuple[EntryPoint, ...]:
    """Return those of one name, once per distribution; cached because a distribution's name is slow to parse."""
    found: dict[tuple[str, str], EntryPoint] = {}
    for point in _read(group, path):
        if point.name == name:
            found.setdefault((_owner(point), point.value), point)
    return tuple(found.values())


def _modified_at(folder: str) -> int:
    """Return when the folder last changed, in nanoseconds; 0: it does not exist."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed distribution"


def _was_interrupted() -> bool:
    """Whether the user pressed Ctrl-C, since a module can raise KeyboardInterrupt itself. True if that is unknown."""
    return bool(getattr(signal.getsignal(signal.SIGINT), "pressed", 1))
