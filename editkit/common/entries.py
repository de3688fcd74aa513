"""Entry points of one group, built in and strangers' alike.

Listing names imports nothing. Loading imports one object. Two distributions with one name are an error that names both.
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
"""Folders where packages may lie, each with when it last changed."""


@dataclass(frozen=True)
class Listed(Generic[T]):
    """One installed declaration as the listing command shows it: `kind`, or the reason why there is none."""

    name: str
    distribution: str
    kind: T | None
    broken: str | None = None


@dataclass(frozen=True)
class Group:
    """What is registered under one name.

    Args:
        name: the group of entry points, such as `editkit.plugins`.
        kind: what one of them is called in messages, such as "plugin".
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
        return _read(self.name, _path())

    def names(self) -> list[str]:
        """Sorted; read from metadata alone."""
        return sorted({point.name for point in self.points()})

    def load(self, name: str) -> object:
        """What the entry point called `name` points to.

        Raises:
            UsageError: there is none (the nearest is named).
            PluginError: two distributions have one of that name, or it does not import.
        """
        points = self._distinct(name)
        if not points:
            hint = did_you_mean(name, self.names()) or f"; {self.listing} lists what is installed"
            raise UsageError(f"no {self.kind} is called {name!r}{hint}")
        if len(points) > 1:
            owners = self.owner(name)
            raise PluginError(f"{self.kind} {name}: {owners} both have one of that name; uninstall one of them")
        try:
            with redirect_stdout(sys.stderr):  # a result may be on its way to standard output
                loaded: object = points[0].load()
        except BaseException as error:  # whatever a stranger's module raises stops nobody else
            if isinstance(error, KeyboardInterrupt) and _pressed():
                raise
            reason = f"{type(error).__name__}: {short(str(error), 400)}"
            raise PluginError(f"{self.kind} {name} (from {_owner(points[0])}) does not import: {reason}") from error
        return loaded

    def declared(self, found: object, name: str, base: type[T], api: int) -> type[T]:
        """`found`, if it is a subclass of `base` that was written for version `api` and bears the name `name`.

        Raises:
            PluginError: it is not.
        """
        if not (isinstance(found, type) and issubclass(found, base)):
            door = ".".join(base.__module__.split(".")[:2])  # where it is to be imported from, wherever it lies within
            needed = f"a subclass of {door}.{base.__name__} is needed"
            raise PluginError(f"{self.kind} {name}: its entry point is {found!r}; {needed}")
        self._of_this_version(name, getattr(found, "api", None), api)
        self._called(name, getattr(found, "name", None))
        return found

    def fitting(self, found: object, name: str, needed: Sequence[str], api: int = 1) -> object:
        """`found`, if it has every attribute that is `needed`, and was written for version `api` of the protocol.

        What says no version (`api`) was written for the first. Where a `name` is needed, it must be `name`.

        Raises:
            PluginError: it lacks one, is called otherwise, or is of another version.
        """
        lacking = [attribute for attribute in needed if not hasattr(found, attribute)]
        if lacking:
            what = found.__name__ if isinstance(found, type | ModuleType) else repr(found)
            raise PluginError(f"{self.kind} {name}: {what} lacks {', '.join(lacking)}; it needs {', '.join(needed)}")
        self._of_this_version(name, getattr(found, "api", 1), api)
        if "name" in needed:
            self._called(name, getattr(found, "name", None))
        return found

    def _of_this_version(self, name: str, theirs: object, api: int) -> None:
        if theirs != api:
            raise PluginError(
                f"{self.kind} {name} was written for version {theirs} of the {self.kind} protocol, this is {api}; "
                f"install a version of it made for this editkit"
            )

    def _called(self, name: str, theirs: object) -> None:
        if theirs != name:
            raise PluginError(
                f"{self.kind} {name}: its attribute `name` is {theirs!r}; it must equal its entry point's name"
            )

    def listed(self, load: Callable[[str], T]) -> list[Listed[T]]:
        """Every installed one, as `load` gives it; the broken ones with their reason."""
        rows = []
        for name in self.names():
            owner = self.owner(name)
            try:
                rows.append(Listed(name, owner, load(name)))
            except PluginError as error:
                rows.append(Listed(name, owner, None, str(error)))
        return rows

    def owner(self, name: str) -> str:
        """The distribution that brings `name`; several are joined by "and"."""
        return " and ".join(sorted(_owner(point) for point in self._distinct(name)))

    def _distinct(self, name: str) -> tuple[EntryPoint, ...]:
        """The entry points called `name`; one distribution seen twice on the path counts once."""
        return _called(self.name, name, _path())


def _path() -> Path:
    return tuple((folder, _changed(folder)) for folder in sys.path)


@lru_cache(maxsize=64)
def _read(group: str, path: Path) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


@lru_cache(maxsize=256)
def _called(group: str, name: str, path: Path) -> tuple[EntryPoint, ...]:
    """Those of one name, each distribution's once; a distribution's own name is in metadata that is slow to parse."""
    found: dict[tuple[str, str], EntryPoint] = {}
    for point in _read(group, path):
        if point.name == name:
            found.setdefault((_owner(point), point.value), point)
    return tuple(found.values())


def _changed(folder: str) -> int:
    """When something was last installed there or taken away, in nanoseconds; 0: there is no such folder."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed distribution"


def _pressed() -> bool:
    """Whether somebody pressed Ctrl-C; a module can raise KeyboardInterrupt by itself. True where nobody counts."""
    return bool(getattr(signal.getsignal(signal.SIGINT), "pressed", 1))
